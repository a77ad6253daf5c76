"""Sessions as requests, in the order in which they would be sent.

Answers are taken to need no time, so turns of sessions that overlap may stand in another order
than in a replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush

from pdcache.replay.sessions import Session
from pdcache.traces.request import TraceRequest

OfSession = Callable[[Session], Iterable[TraceRequest]]


def in_order(sessions: Iterable[Session], requests: OfSession) -> Iterator[TraceRequest]:
    """Requests of all sessions by time; `requests` gives those of one session in order.

    Only sessions that have begun are held. Where a session starts before one that stands earlier
    in the file, its turns come as early as they still can.
    """
    waiting: list[tuple[float, int, TraceRequest, Iterator[TraceRequest]]] = []

    def push(number: int, rest: Iterator[TraceRequest]) -> None:
        request = next(rest, None)
        if request is not None:
            heappush(waiting, (request.at_s or 0.0, number, request, rest))

    def pop() -> TraceRequest:
        _, number, request, rest = heappop(waiting)
        push(number, rest)
        return request

    for number, session in enumerate(sessions):
        while waiting and waiting[0][0] < session.start_s:
            yield pop()
        push(number, iter(requests(session)))
    while waiting:
        yield pop()


def turn_requests(session: Session) -> Iterator[TraceRequest]:
    """Requests of a session of blocks; of one of texts the characters that each turn adds."""
    at_s = session.start_s
    for number, turn in enumerate(session.turns):
        at_s += turn.think_s
        length = turn.input_tokens
        if length is None:
            length = len(turn.user or "") + (0 if number else len(session.system or ""))
        yield TraceRequest(at_s, length, turn.max_tokens, turn.blocks)
