"""Empties L1 and L2 of prefill workers before a turn, so that only L3 can serve it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import httpx

from pdcache.plan.process import Process
from pdcache.replay.spec import BeforeTurn
from pdcache.sglang.admin import flush

# A worker is idle soon after its last request: its backups to L3 are what it waits for.
_LIMIT_S = 60.0


def flushing(workers: Sequence[Process], new_client: Callable[[], httpx.AsyncClient]) -> BeforeTurn:
    """A `before_turn` for `run_replay` with one session at a time.

    What has been written back to L3 stays; the flush waits for writes of prefill that run.
    """

    async def before_turn(session: str, turn: int) -> None:
        del session, turn
        async with new_client() as client:
            await asyncio.gather(*(flush(client, own, limit_s=_LIMIT_S) for own in workers))

    return before_turn
