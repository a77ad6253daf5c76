"""Sees a server whose scheduler makes no progress though it has requests."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pdcache.cluster.states import ProcessState
from pdcache.errors import ClusterError
from pdcache.sglang.idle import Load, load
from pdcache.topology.schema import WORKER_ROLES

if TYPE_CHECKING:
    from pdcache.cluster.live import Live

EVERY_S = 2.0
STUCK_AFTER_S = 60.0
"""One step of a big prefill on a slow machine takes some seconds; a minute is no step."""


@dataclass
class Progress:
    """When a server last did something, on the clock of the caller."""

    told_s: float = 0.0
    moved_s: float = 0.0

    def look(self, seen: Load, now_s: float) -> float:
        """Seconds for which it has had requests and done nothing.

        SGLang's schedulers tell their load at every step, and never while they wait for work.
        """
        if seen.busy is None or seen.at_s != self.told_s:
            self.told_s, self.moved_s = seen.at_s, now_s
        return now_s - self.moved_s


async def watch_progress(live: Live) -> None:
    """Look for ever; a server that is stuck is ended, and so started again."""
    known: dict[tuple[str, int], Progress] = {}
    while True:
        workers = [own for role in WORKER_ROLES for own in live.plan.role(role)]
        for worker in workers:
            own = live.status(worker.name)
            if own.state is not ProcessState.HEALTHY:
                continue
            progress = known.setdefault((worker.name, own.incarnation), Progress())
            try:
                stuck_s = progress.look(await load(live.client, worker), time.monotonic())
            except ClusterError:
                continue
            if stuck_s > STUCK_AFTER_S:
                text = f"has requests and made no step for {stuck_s:.0f} s"
                live.events.add(worker.name, "stuck", text, "ended, to be started again")
                await live.fleet.end(worker, text, at_once=True)
        await asyncio.sleep(EVERY_S)
