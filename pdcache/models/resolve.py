"""From a model reference to what SGLang's --model-path takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pdcache.errors import ModelError
from pdcache.models import cache, smollm2, tiny_random
from pdcache.models.builtin import BUILTIN_MODELS, SMOLLM2, TINY_RANDOM
from pdcache.models.reference import Kind, kind_of

_MAKERS = {SMOLLM2: smollm2.make, TINY_RANDOM: tiny_random.make}

# What SGLang's loader looks for (sglang/srt/model_loader/loader.py, _prepare_weights, 0.5.23).
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "*.tiktoken")


def resolve_model(
    reference: str, *, verify: bool = False, progress: Callable[[str], None] | None = None
) -> str:
    """The folder or hub id that SGLang loads for `reference`.

    A built-in model is made in the user's cache when it is not there yet: `tiny-random` in about
    a second, `smollm2-135m` in about ten. A folder is checked for its parts. A hub id is returned
    as it is: SGLang fetches it.

    Args:
        verify: also compare the checksum of every file of a built-in model.
        progress: gets one line for each step that takes time.

    Raises:
        ModelError: no such model, parts of it are missing, or it cannot be made.
    """
    kind = kind_of(reference)
    if kind is Kind.HUB:
        return reference
    if kind is Kind.FOLDER:
        folder = Path(reference).expanduser().resolve()
        _check_parts(folder)
        return str(folder)
    return str(
        cache.cached(
            BUILTIN_MODELS[reference],
            _MAKERS[reference],
            verify=verify,
            progress=progress or _silent,
        )
    )


def _silent(line: str) -> None:
    pass


def _check_parts(folder: Path) -> None:
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not any(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        missing.append("weights (*.safetensors, *.bin or *.pt)")
    missing.extend(_missing_shards(folder))
    if not any(path for pattern in _TOKENIZERS for path in folder.glob(pattern)):
        missing.append("a tokenizer (tokenizer.json or tokenizer.model)")
    if missing:
        raise ModelError(
            f"this model folder lacks {', '.join(missing)}.",
            where=str(folder),
            remedy="Give a complete folder in Hugging Face layout, such as save_pretrained writes.",
        )


def _missing_shards(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    try:
        shards = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"cannot read the list of shards: {error}.", where=str(index)) from error
    return sorted(shard for shard in shards if not (folder / shard).is_file())
