"""Pieces of Markdown that the generated pages share."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

GENERATED = "<!-- Written by scripts/docs.py; change the code, then run it. -->\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def text(docstring: str) -> str:
    """A docstring as a paragraph."""
    return inspect.cleandoc(docstring).replace("``", "`") + "\n"


def words(names: Iterable[str]) -> str:
    """Names in code style, with commas."""
    return ", ".join(f"`{name}`" for name in names)
