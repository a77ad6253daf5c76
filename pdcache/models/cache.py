"""The user's cache of made models: one folder each, made at once or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pdcache.errors import ModelError
from pdcache.models.builtin import BuiltinModel

MANIFEST = "pdcache_manifest.json"

Progress = Callable[[str], None]


def cache_root() -> Path:
    """`$PDCACHE_CACHE`, else `$XDG_CACHE_HOME/pdcache`, else `~/.cache/pdcache`."""
    if own := os.environ.get("PDCACHE_CACHE"):
        return Path(own).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "pdcache"
    return Path.home() / ".cache" / "pdcache"


def model_folder(model: BuiltinModel) -> Path:
    """Where `model` lies once it is made."""
    return cache_root() / "models" / model.name


def cached(
    model: BuiltinModel,
    make: Callable[[Path, Progress], None],
    *,
    verify: bool,
    progress: Progress,
) -> Path:
    """The folder of `model`, made by `make(folder, progress)` when it is absent or damaged.

    The files appear under their final name only when all of them and the manifest are written.
    Concurrent callers wait for the one that makes it.

    Args:
        verify: compare the sha256 of every file too, not only its size.

    Raises:
        ModelError: the cache cannot be written, or whatever `make` raises.
    """
    folder = model_folder(model)
    if (fault := find_fault(folder, model, verify=verify)) is None:
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / f".{model.name}.lock", model.name, progress):
            if (fault := find_fault(folder, model, verify=verify)) is None:
                return folder
            if folder.exists():
                progress(f"{model.name}: the cached copy is unusable ({fault}), making it anew")
            _build(folder, model, make, progress)
    except OSError as error:
        raise ModelError(
            f"cannot write the model cache: {error}.",
            where=str(folder),
            remedy="Free some space there or set PDCACHE_CACHE to a folder that can be written.",
        ) from error
    return folder


def find_fault(folder: Path, model: BuiltinModel, *, verify: bool) -> str | None:
    """Why the copy in `folder` cannot be used, or None when it can."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        recipe, files = manifest["recipe"], manifest["files"].items()
        for name, recorded in files:
            if (folder / name).stat().st_size != recorded["bytes"]:
                return f"{name} has the wrong size"
            if verify and file_sha256(folder / name) != recorded["sha256"]:
                return f"{name} has the wrong checksum"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None if recipe == model.recipe else "another version of pdcache made it"


def file_sha256(path: Path) -> str:
    """Hex sha256 of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(
    folder: Path, model: BuiltinModel, make: Callable[[Path, Progress], None], progress: Progress
) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    retired = folder.with_name(f".{folder.name}.retired")
    for left_over in (partial, retired):
        shutil.rmtree(left_over, ignore_errors=True)
    partial.mkdir()
    try:
        make(partial, progress)
        _write_manifest(partial, model)
        if folder.exists():
            folder.rename(retired)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def _write_manifest(folder: Path, model: BuiltinModel) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.iterdir())
    }
    manifest = {"schema": 1, "model": model.name, "recipe": model.recipe, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


@contextmanager
def _locked(path: Path, name: str, progress: Progress) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"{name}: another process is making it, waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
