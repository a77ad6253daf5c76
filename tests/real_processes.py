"""Small real processes for tests, and waiting on conditions with a limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def until(what: str, condition: Callable[[], T], limit_s: float = 30.0) -> T:
    """The first true value of a condition; after the limit an error that names it."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.01)
    return value


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] != "Z"


def all_gone(pids: Iterable[int]) -> bool:
    """Whether none of these processes runs."""
    return not [pid for pid in pids if alive(pid)]


def command_of(pid: int) -> str:
    """The name of what a process runs now."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
