"""A trace as sessions, in memory that holds a few bytes a request and no lines.

Requests that follow each other stand far apart in a trace. So the file is read twice: once to
see which request belongs to which session, once to fetch each session's lines.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import islice
from typing import IO

from pdcache.errors import ReplayError
from pdcache.replay.sessions import Session, Turn
from pdcache.traces.items import Item
from pdcache.traces.problems import Problems
from pdcache.traces.request import TraceRequest
from pdcache.traces.trace import Trace

# Where contents are not told every block has an id of its own, far from those of traces.
_FIRST_FRESH = 1 << 62


def import_sessions(
    trace: Trace, problems: Problems, limit: int | None = None
) -> Iterator[Session]:
    """Sessions of a trace by the time of their first request, which is 0 for the first one.

    The pause before a turn is the trace's `delay`, or else the time since the request before
    it; that includes the time of the answer, which traces do not tell. Of two requests that
    follow the same one, the later one begins a session.

    Args:
        trace: of any format.
        problems: takes the malformed lines.
        limit: items to read at most.

    Raises:
        ReplayError: the file cannot be read, `problems` is strict, or requests stand in an array.
    """
    if trace.format.session is not None:
        for _, session in islice(trace.sessions(problems), limit):
            yield session
        return
    where = array("q")
    lines = array("q")
    owners = array("q")
    ends: dict[str, int] = {}
    sessions = 0
    for item, request in islice(trace.requests(problems), limit):
        owner = ends.pop(request.follows, None) if request.follows is not None else None
        if owner is None:
            owner = sessions
            sessions += 1
        if request.name is not None:
            ends[request.name] = owner
        if item.offset is None:
            raise ReplayError(
                "its requests are the elements of one JSON array, which cannot be read twice.",
                where=str(trace.path),
                remedy=f"Write one a line: jq -c '.[]' {trace.path} > LINES.jsonl",
            )
        where.append(item.offset)
        lines.append(item.line)
        owners.append(owner)
    del ends
    yield from _fetched(trace, where, lines, owners)


def _fetched(
    trace: Trace, where: array[int], lines: array[int], owners: array[int]
) -> Iterator[Session]:
    import numpy as np  # not at the top: every command of the shell imports this module

    order = np.argsort(np.frombuffer(owners, dtype=np.int64), kind="stable") if owners else ()
    begin_s: float | None = None
    fresh = _FIRST_FRESH
    requests: list[TraceRequest] = []
    with trace.path.open("rb") as file:
        for position, index in enumerate(order):
            request = _read(trace, file, where[index], lines[index])
            if request.blocks is None:
                blocks = -(-request.input_tokens // trace.block_size)
                request = request._replace(blocks=tuple(range(fresh, fresh + blocks)))
                fresh += blocks
            requests.append(request)
            owner = owners[index]
            if position + 1 < len(order) and owners[order[position + 1]] == owner:
                continue
            begin_s = (requests[0].at_s or 0.0) if begin_s is None else begin_s
            yield _session(requests, owner + 1, begin_s, trace.block_size)
            requests = []


def _read(trace: Trace, file: IO[bytes], offset: int, line: int) -> TraceRequest:
    file.seek(offset)
    request = trace.parse(Item(line, file.readline(), line, offset))
    assert isinstance(request, TraceRequest)
    return request


def _session(requests: list[TraceRequest], number: int, begin_s: float, block_size: int) -> Session:
    at_s = begin_s if requests[0].at_s is None else requests[0].at_s
    start_s = max(0.0, at_s - begin_s)
    turns = []
    for index, request in enumerate(requests):
        gap_s = 0.0 if request.at_s is None else max(0.0, request.at_s - at_s)
        think_s = gap_s if request.think_s is None or index == 0 else request.think_s
        at_s = at_s + think_s if request.at_s is None else request.at_s
        turns.append(
            Turn(None, max(1, request.output_tokens), think_s, request.blocks, request.input_tokens)
        )
    return Session(f"t{number}", tuple(turns), start_s=start_s, block_size=block_size)
