"""Finds a hub model in the local Hugging Face cache, by the layout of huggingface_hub's cache."""

from __future__ import annotations

import os
from pathlib import Path


def hub_snapshot(hub_id: str) -> Path | None:
    """The snapshot folder of `org/name` at revision main that is on this machine, or None.

    Layout: `models--org--name/refs/main` holds the commit, `snapshots/COMMIT/` the files
    (huggingface_hub, "Understand caching").
    """
    repo = _cache_dir() / f"models--{hub_id.replace('/', '--')}"
    try:
        commit = (repo / "refs" / "main").read_text().strip()
    except OSError:
        return None
    snapshot = repo / "snapshots" / commit
    return snapshot if commit and (snapshot / "config.json").is_file() else None


def _cache_dir() -> Path:
    if direct := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(direct).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    xdg = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(xdg).expanduser() / "huggingface" / "hub"
