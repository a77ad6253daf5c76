"""Asks every worker what it has to do; those who watch for stuck and slow workers look at it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pdcache.errors import ClusterError
from pdcache.faults.slow import SlowWorkers
from pdcache.faults.stuck import StuckWorkers
from pdcache.plan.process import Process
from pdcache.sglang.idle import Load, load
from pdcache.topology.schema import WORKER_ROLES

if TYPE_CHECKING:
    from pdcache.cluster.live import Live

EVERY_S = 5.0
AT_ONCE = 8
"""Requests at a time: one worker that hangs does not hold up the others, nor do all answers come
at one moment."""


async def watch_loads(live: Live) -> None:
    """Look for ever at what the healthy workers have to do, each asked once a look."""
    stuck, slow = StuckWorkers(live), SlowWorkers(live)
    while True:
        live.loads = await loads(live)
        await stuck.look(live.loads)
        slow.look(live.loads)
        await asyncio.sleep(EVERY_S)


async def loads(live: Live) -> dict[str, Load]:
    """The loads of the healthy workers by name; those that do not tell are left out."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def ask(worker: Process) -> tuple[str, Load] | None:
        async with turns:
            try:
                return worker.name, await load(live.client, worker)
            except ClusterError:
                return None

    workers = [own for role in WORKER_ROLES for own in live.plan.role(role)]
    asked = await asyncio.gather(*(ask(own) for own in workers if live.fleet.is_healthy(own)))
    return dict(answer for answer in asked if answer is not None)
