"""Configurations of well-known hub models as data, so that a plan for them needs no network.

`known/` holds one file a model, named ORG--MODEL.json: those keys of its config.json on the hub
that facts are made of.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent / "known"


def known_config(hub_id: str) -> dict[str, Any] | None:
    """The configuration of the model with this hub id, in any case; None if it has no file."""
    path = _files().get(hub_id.lower())
    if path is None:
        return None
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def known_ids() -> list[str]:
    """The hub ids of all models that have a file, as the hub spells them."""
    return sorted(_hub_id(path) for path in _files().values())


@cache
def _files() -> dict[str, Path]:
    return {_hub_id(path).lower(): path for path in _FOLDER.glob("*.json")}


def _hub_id(path: Path) -> str:
    return path.stem.replace("--", "/")
