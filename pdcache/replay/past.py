"""What an interrupted run had done, so that another can go on from there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pdcache.replay.ceiling import CeilingTracker
from pdcache.replay.journal import (
    PAGES_FILE,
    REQUESTS_FILE,
    TIMELINE_FILE,
    read_environment,
    read_lines,
    unreadable,
)
from pdcache.replay.sessions import Session

Answers = list[tuple[int, ...]]


@dataclass(frozen=True)
class Past:
    """What an earlier run left; empty for a first one.

    Attributes:
        answers: of sessions that were begun and not finished, turn by turn.
        finished: names of the sessions whose turns are all answered.
        completed: turns with a whole answer.
        sent: records, those of failed requests included.
        elapsed_s: seconds that the run had lasted.
        steady_from_s: when its first request after the warm-up was sent; None before it.
        folder: where it is, None for a first run.
    """

    answers: Mapping[str, Answers] = field(default_factory=dict)
    finished: frozenset[str] = frozenset()
    completed: int = 0
    sent: int = 0
    elapsed_s: float = 0.0
    steady_from_s: float | None = None
    folder: Path | None = None

    @classmethod
    def read(cls, folder: str | Path, sessions: Iterable[Session]) -> Past:
        """Read a run of `sessions`. Turns that failed, and those after them, are to be sent.

        Raises:
            ReplayError: naming file:line, where it is not a run that this version reads.
        """
        path = Path(folder)
        wanted = {session.session: len(session.turns) for session in sessions}
        answers: dict[str, Answers] = {}
        finished: set[str] = set()
        sent = 0
        steady_s: list[float] = []
        elapsed_s = read_environment(path).get("wall_s") or 0.0
        for line in read_lines(path / REQUESTS_FILE):
            sent += 1
            try:
                elapsed_s = max(elapsed_s, line["finished_s"])
                if not line["warmup"]:
                    steady_s = [min([line["sent_s"], *steady_s])]
                name, turn = line["session"], line["turn"]
                own = answers.setdefault(name, [])
                if line["error"] is None and turn == len(own) + 1:
                    own.append(tuple(line["output_ids"]))
            except (KeyError, TypeError) as cause:
                raise unreadable(str(path / REQUESTS_FILE), cause) from cause
            if len(own) == wanted.get(name):
                finished.add(name)
                own.clear()
        for line in read_lines(path / TIMELINE_FILE):
            elapsed_s = max(elapsed_s, line["at_s"])
        begun = {name: own for name, own in answers.items() if own}
        done = sum(wanted[name] for name in finished) + sum(len(own) for own in begun.values())
        steady_from_s = steady_s[0] if steady_s else None
        return cls(begun, frozenset(finished), done, sent, elapsed_s, steady_from_s, path)

    def fill(self, tracker: CeilingTracker) -> None:
        """Give the pages of what was finished to the ceiling.

        Raises:
            ReplayError: as `read`.
        """
        if self.folder is not None:
            for line in read_lines(self.folder / PAGES_FILE):
                tracker.finished(line["prompt_pages"], line["answer_pages"])
