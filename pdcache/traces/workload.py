"""The requests of any trace in order of time, and the blocks they are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from pdcache.errors import ReplayError
from pdcache.replay.dialogue import ChatTokenizer
from pdcache.replay.sessions import Session
from pdcache.traces.flatten import in_order, turn_requests
from pdcache.traces.problems import Problems
from pdcache.traces.request import TraceRequest
from pdcache.traces.text_pages import TextPages
from pdcache.traces.trace import Trace

PAGE_SIZE = 64


@dataclass(frozen=True)
class Workload:
    """Requests to be read once; `block_size` tokens a block, None when lengths are characters."""

    requests: Iterator[TraceRequest]
    block_size: int | None


def workload_of(
    trace: Trace, problems: Problems, tokenizer: ChatTokenizer | None, page_size: int | None
) -> Workload:
    """Requests of a trace.

    Args:
        trace: of any format.
        problems: takes the malformed lines.
        tokenizer: of the model that texts are meant for; without it their lengths are characters.
        page_size: tokens a block of texts, 64 unless given.

    Raises:
        ReplayError: the file cannot be read or there is no session. While it is read: a session
            has other blocks than the first one.
    """
    if trace.format.request is not None:
        return Workload((request for _, request in trace.requests(problems)), trace.block_size)
    sessions = (session for _, session in trace.sessions(problems))
    first = next(sessions, None)
    if first is None:
        raise nothing_read(trace, problems)
    alike = _alike(chain([first], sessions), first.block_size)
    if first.block_size is not None:
        return Workload(in_order(alike, turn_requests), first.block_size)
    if tokenizer is None:
        return Workload(in_order(alike, turn_requests), None)
    pages = TextPages(tokenizer, page_size or PAGE_SIZE)
    return Workload(in_order(alike, pages.requests), page_size or PAGE_SIZE)


def nothing_read(trace: Trace, problems: Problems) -> ReplayError:
    """The error of a trace without a single good line; says what is wrong with the first one."""
    first = f" The first malformed line: {problems.first[0]}" if problems.first else ""
    return ReplayError(
        f"no line can be read as {trace.name}.{first}",
        where=str(trace.path),
        remedy=None if first else "Give another file or --format.",
    )


def _alike(sessions: Iterable[Session], block_size: int | None) -> Iterator[Session]:
    for session in sessions:
        if session.block_size != block_size:
            raise ReplayError(
                f"its block_size is {session.block_size}, that of the first session {block_size}.",
                where=f"session {session.session}",
                remedy="Look at texts, and at traces of each block size, one by one.",
            )
        yield session
