"""Ends what no client waits for any more on a worker that the gateway has let go."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from pdcache.errors import ClusterError
from pdcache.plan.process import Process
from pdcache.sglang import admin
from pdcache.sglang.idle import load

if TYPE_CHECKING:
    from pdcache.cluster.live import Live

POLL_S = 0.25
TRANSFER_S = 5.0
"""How long a last KV transfer may take after its request was answered."""


async def end_orphans(live: Live, worker: Process) -> None:
    """Abort what a worker still has some seconds after its last request was answered.

    It is a half of a request whose other half failed: the gateway has sent it elsewhere, and
    SGLang would wait for the other half until its own time limit.
    """
    deadline = time.monotonic() + TRANSFER_S
    while (what := await _busy(live, worker)) is not None:
        if time.monotonic() > deadline:
            live.events.add(
                worker.name, "orphans", f"no client waits for what it has: {what}", "aborted"
            )
            with contextlib.suppress(ClusterError):
                await admin.abort_all(live.client, worker)
            return
        await asyncio.sleep(POLL_S)


async def _busy(live: Live, worker: Process) -> str | None:
    try:
        return (await load(live.client, worker)).busy
    except ClusterError:
        return None  # Whoever needs an answer of it will say that there is none.
