"""A part of a trace, by time or by number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pdcache.errors import ReplayError
from pdcache.replay.sessions import Session, session_line
from pdcache.traces.problems import Problems
from pdcache.traces.trace import Trace


def slice_trace(
    trace: Trace,
    problems: Problems,
    from_s: float = 0.0,
    to_s: float = float("inf"),
    limit: int | None = None,
) -> Iterator[bytes]:
    """Lines of the part, in the trace's own format; the elements of an array become lines.

    Requests keep their times, which importers count from the first one. Sessions come whole and
    start at 0 with the part.

    Args:
        trace: of any format; of dialogues, which tell no times, all begin at 0.
        problems: takes the malformed lines, which are left out.
        from_s: seconds from the trace's first request, included.
        to_s: the same, excluded.
        limit: requests or sessions at most.

    Raises:
        ReplayError: the file cannot be read, or the part is empty.
    """
    if limit is not None and limit < 1:
        raise ReplayError(f"the limit is {limit}.", where="--limit", remedy="Give 1 or more.")
    begin_s: float | None = None
    at_s = 0.0
    taken = 0
    for item, value in trace.entries(problems):
        if isinstance(value, Session):
            at_s = value.start_s
        else:
            # A turn without a time of its own goes with the line before it.
            at_s = at_s if value.at_s is None else value.at_s
            begin_s = at_s if begin_s is None else begin_s
        if not from_s <= at_s - (begin_s or 0.0) < to_s:
            continue
        if taken == 0 and trace.header is not None:
            yield trace.header
        taken += 1
        if isinstance(value, Session) and trace.name == "sessions":
            yield session_line(replace(value, start_s=at_s - from_s)).encode() + b"\n"
        else:
            yield b" ".join(item.text.split(b"\n")).strip() + b"\n"
        if taken == limit:
            return
    if not taken:
        raise ReplayError(
            "no request is in this part.", where=str(trace.path), remedy="Take another time."
        )
