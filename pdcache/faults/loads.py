"""Asks every worker what it has to do; those who watch for stuck and slow workers look at it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pdcache.faults.slow import SlowWorkers
from pdcache.faults.stuck import StuckWorkers
from pdcache.plan.process import Process
from pdcache.sglang.idle import PATH, Load, load_of
from pdcache.topology.schema import WORKER_ROLES

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from pdcache.cluster.live import Live

EVERY_S = 2.5
LIMIT_S = 5.0
AT_ONCE = 8
"""Requests at a time: one worker that hangs does not hold up the others, nor do all answers come
at one moment."""


async def watch_loads(live: Live) -> None:
    """Look for ever at what the healthy workers have to do, each asked once a look.

    By aiohttp: this is most of what the controller of many workers asks, and a request of httpx
    takes three to five times the CPU.
    """
    from aiohttp import ClientSession, ClientTimeout

    stuck, slow = StuckWorkers(live), SlowWorkers(live)
    async with ClientSession(timeout=ClientTimeout(total=LIMIT_S)) as session:
        while True:
            live.loads = await loads(live, session)
            await stuck.look(live.loads)
            slow.look(live.loads)
            await asyncio.sleep(EVERY_S)


async def loads(live: Live, session: ClientSession) -> dict[str, Load]:
    """The loads of the healthy workers by name; those that do not tell are left out."""
    from aiohttp import ClientError

    turns = asyncio.Semaphore(AT_ONCE)
    headers = live.desired.keys.headers()

    async def ask(worker: Process) -> tuple[str, Load] | None:
        async with turns:
            try:
                async with session.get(f"{worker.url}{PATH}", headers=headers) as response:
                    response.raise_for_status()
                    return worker.name, load_of(await response.json(content_type=None))
            except (ClientError, TimeoutError, ValueError, LookupError, TypeError, AttributeError):
                return None

    workers = [own for role in WORKER_ROLES for own in live.plan.role(role)]
    asked = await asyncio.gather(*(ask(own) for own in workers if live.fleet.is_healthy(own)))
    return dict(answer for answer in asked if answer is not None)
