"""Cheap identities of a model's weights and tokenizer, for storage namespaces.

KV may be shared by two servers only when both digests are equal. Equal digests of different
content would corrupt answers, different digests of equal content only lose cache hits; so when in
doubt these differ.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pdcache.errors import ModelError
from pdcache.models.builtin import BUILTIN_MODELS, BuiltinModel
from pdcache.models.cache import model_folder
from pdcache.models.hub import hub_snapshot
from pdcache.models.reference import Kind, kind_of

_EDGE_BYTES = 64 * 1024
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_TOKENIZER = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template*",
    "*.tiktoken",
)


def weights_digest(reference: str) -> str:
    """Hex sha256 that changes with the configuration and (nearly always) with the weights.

    Reads config.json whole, and of each weights file its name, size, safetensors header and the
    first and last 64 KiB: a change that keeps sizes and both edges goes unseen. A built-in model
    has the same digest by name and by its folder in the cache, and need not be made for it.

    Raises:
        ModelError: no such model, or it is not on this machine.
    """
    located = _locate(reference)
    if isinstance(located, BuiltinModel):
        return located.digest("weights")
    digest = hashlib.sha256()
    _add(digest, "config.json", _read(located / "config.json"))
    for path in _matching(located, _WEIGHTS, "weights"):
        _add(digest, path.name, str(path.stat().st_size).encode() + _edges(path))
    return digest.hexdigest()


def tokenizer_digest(reference: str) -> str:
    """Hex sha256 over the names and contents of the tokenizer's files, chat template included.

    Raises:
        ModelError: no such model, or it is not on this machine.
    """
    located = _locate(reference)
    if isinstance(located, BuiltinModel):
        return located.digest("tokenizer")
    digest = hashlib.sha256()
    for path in _matching(located, _TOKENIZER, "tokenizer"):
        _add(digest, path.name, _read(path))
    return digest.hexdigest()


def _locate(reference: str) -> Path | BuiltinModel:
    kind = kind_of(reference)
    if kind is Kind.BUILTIN:
        return BUILTIN_MODELS[reference]
    if kind is Kind.FOLDER:
        folder = Path(reference).expanduser().resolve()
        for model in BUILTIN_MODELS.values():
            if folder == model_folder(model).resolve():
                return model
        return folder
    if (snapshot := hub_snapshot(reference)) is None:
        raise ModelError(
            "this hub model is not on this machine, so its content cannot be told.",
            where=reference,
            remedy="Fetch it first (hf download), or give a folder.",
        )
    return snapshot


def _matching(folder: Path, patterns: tuple[str, ...], what: str) -> list[Path]:
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    if not paths:
        raise ModelError(f"this model folder has no {what}.", where=str(folder))
    return sorted(paths)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read it: {error.strerror}.", where=str(path)) from error


def _edges(path: Path) -> bytes:
    with path.open("rb") as file:
        header = 0
        if path.suffix == ".safetensors":
            header = min(8 + int.from_bytes(file.read(8), "little"), _MAX_HEADER_BYTES)
            file.seek(0)
        start = file.read(header + _EDGE_BYTES)
        file.seek(max(path.stat().st_size - _EDGE_BYTES, 0))
        return start + file.read()


def _add(digest: hashlib._Hash, name: str, content: bytes) -> None:
    # Lengths first, so that no two lists of files give one stream of bytes.
    for part in (name.encode(), content):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
