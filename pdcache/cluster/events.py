"""What happened on a cluster, when, and what was done: kept in a file that outlives it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SHOWN = 1000
"""Events that are kept in memory and told at most."""

FILE_LIMIT = 8 << 20
"""Bytes after which the file starts anew; the one before is kept as ``.previous``."""


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        number: counts from 1 and never goes back, so a reader can ask for what is new.
        at_s: wall clock, seconds since 1970.
        subject: the process or part of the cluster it happened to.
        kind: one word: started, died, frozen, out, in, degraded, healed, change, proof.
        text: what happened, in a sentence.
        did: what was done about it; empty when there was nothing to do.
    """

    number: int
    at_s: float
    subject: str
    kind: str
    text: str
    did: str = ""

    def as_json(self) -> dict[str, Any]:
        """The event as data."""
        return asdict(self)


class Events:
    """Appends to a JSON-lines file; a new controller goes on where the one before ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = list(read_events(path))[-SHOWN:]

    def add(self, subject: str, kind: str, text: str, did: str = "") -> Event:
        """Note an event. A full disk loses the line in the file, not the event."""
        number = self._kept[-1].number + 1 if self._kept else 1
        event = Event(number, round(time.time(), 3), subject, kind, text, did)
        self._kept = [*self._kept[-SHOWN + 1 :], event]
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and self._path.stat().st_size > FILE_LIMIT:
                self._path.replace(self._path.with_suffix(".previous.jsonl"))
            with open(self._path, "ab+") as file:
                # A line that was cut off must not take this one with it.
                file.seek(max(0, file.seek(0, 2) - 1))
                broken = file.read(1) not in (b"", b"\n")
                file.write(b"\n" * broken + json.dumps(event.as_json()).encode() + b"\n")
        return event

    def since(self, number: int) -> list[Event]:
        """Events after that number, oldest first."""
        return [event for event in self._kept if event.number > number]


def read_events(path: Path) -> Iterable[Event]:
    """Events of a file; a line that was cut off is left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        with contextlib.suppress(ValueError, TypeError):
            yield Event(**json.loads(line))
