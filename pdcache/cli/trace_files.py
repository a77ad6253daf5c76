"""Files that ``trace`` writes: whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from pdcache.cli.output import out
from pdcache.errors import ReplayError
from pdcache.replay.sessions import Session, session_line

Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="Write here.")]


def write_sessions(path: Path, sessions: Iterable[Session]) -> None:
    """Write sessions as JSONL, one at a time, and say how many.

    Raises:
        ReplayError: the file cannot be written.
    """
    turns = 0

    def lines() -> Iterator[bytes]:
        nonlocal turns
        for session in sessions:
            turns += len(session.turns)
            yield session_line(session).encode() + b"\n"

    number = write_lines(path, lines())
    out.print(f"{number} sessions, {turns} turns: {path}", highlight=False)


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Write lines beside `path`, then put them in its place; returns how many.

    So a trace may be replaced by a part of itself, and a failure leaves what was there.

    Raises:
        ReplayError: the file cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    number = 0
    try:
        with beside.open("wb") as file:
            for line in lines:
                file.write(line)
                number += 1
        beside.replace(path)
    except OSError as cause:
        raise ReplayError(
            f"cannot write: {cause.strerror}.", where=str(path), remedy="Give another --out."
        ) from cause
    finally:
        beside.unlink(missing_ok=True)
    return number
