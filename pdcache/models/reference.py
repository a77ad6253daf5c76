"""What kind of thing a model reference is: a built-in name, a folder, or a hub id."""

from __future__ import annotations

import difflib
import os
import re
from enum import Enum
from pathlib import Path

from pdcache.errors import ModelError
from pdcache.models.builtin import BUILTIN_MODELS

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class Kind(Enum):
    BUILTIN = "built-in"
    FOLDER = "folder"
    HUB = "hub id"


def kind_of(reference: str) -> Kind:
    """Tell what `reference` is. A built-in name wins over a folder of the same name.

    Raises:
        ModelError: it looks like a path and there is no such folder, or it is a bare name that
            is not built in.
    """
    if reference in BUILTIN_MODELS:
        return Kind.BUILTIN
    folder = Path(reference).expanduser()
    if reference and folder.is_dir():
        return Kind.FOLDER
    if folder.is_file():
        raise ModelError(
            "a model is a folder in Hugging Face layout, and this is a file.",
            where=reference,
            remedy="Give the folder that holds config.json.",
        )
    if _HUB_ID.fullmatch(reference):
        return Kind.HUB
    if reference.startswith((".", "~")) or "/" in reference:
        raise ModelError(
            "there is no such model folder.",
            where=reference,
            remedy=f"Check the path; it was looked up from {os.getcwd()}.",
        )
    raise ModelError(
        f"there is no built-in model named {reference!r}.", remedy=_suggestion(reference)
    )


def _suggestion(name: str) -> str:
    known = ", ".join(BUILTIN_MODELS)
    near = difflib.get_close_matches(name.lower(), BUILTIN_MODELS, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return (
        f"{hint}Built in are: {known}. A model of your own is given as a folder (./my-model) or "
        "as a hub id (org/name)."
    )
