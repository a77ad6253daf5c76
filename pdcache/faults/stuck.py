"""Ends a server whose scheduler makes no progress though it has requests."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import httpx

from pdcache.faults.progress import STEP_S, Progress, Wait, limit_s, words
from pdcache.plan.process import Process
from pdcache.sglang.admin import metrics
from pdcache.sglang.idle import Load
from pdcache.sglang.ranks import Rank
from pdcache.topology.schema import WORKER_ROLES

if TYPE_CHECKING:
    from pdcache.cluster.live import Live

LEFT = (
    "sglang:num_requests_total",
    "sglang:num_aborted_requests_total",
    "sglang:num_bootstrap_failed_reqs_total",
    "sglang:num_transfer_failed_reqs_total",
)
"""Counters of requests that a worker has done with, one way or the other (sglang 0.5.23
``observability/metrics_collector.py``)."""


class Watched:
    """One scheduler of one incarnation of a worker.

    Attributes:
        left: requests that the worker had done with, counted when this one had been still for
            `STEP_S`; None before.
    """

    def __init__(self) -> None:
        self.progress = Progress()
        self.left: float | None = None


class StuckWorkers:
    """Ends a server that is stuck, and so it is started again."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._known: dict[tuple[str, int, int], Watched] = {}

    async def look(self, seen: Mapping[str, Load]) -> None:
        """Take the loads of one look, by the worker's name."""
        live = self._live
        for worker in (own for role in WORKER_ROLES for own in live.plan.role(role)):
            if worker.name not in seen or not live.fleet.is_healthy(worker):
                continue
            incarnation = live.status(worker.name).incarnation
            for index, rank in enumerate(seen[worker.name].ranks):
                watched = self._known.setdefault((worker.name, incarnation, index), Watched())
                if text := await self._stuck(worker, rank, watched):
                    live.events.add(worker.name, "stuck", text, "ended, to be started again")
                    await live.fleet.end(worker, text, at_once=True)
                    break

    async def _stuck(self, worker: Process, rank: Rank, watched: Watched) -> str | None:
        """What stands still for longer than it may, or None."""
        now_s = time.monotonic()
        still = watched.progress.look(rank, now_s)
        if still.for_s <= STEP_S:
            watched.left = None
            return None
        over = still.for_s > limit_s(still, rank, worker)
        if still.wait is Wait.PEERS and await self._goes_on(worker, watched, over=over):
            watched.progress.restart(now_s)
            return None
        return f"{words(still, rank, worker)} {still.for_s:.0f} s" if over else None

    async def _goes_on(self, worker: Process, watched: Watched, *, over: bool) -> bool:
        """Whether requests left since `watched.left` was counted, though the queues look the same.

        One that SGLang gave up, and that its client or the gateway sends again at once, stands in
        the queue as before. Not to know is no reason to end a worker either.
        """
        if watched.left is None and not over:
            watched.left = await self._left(worker)
        return over and (watched.left is None or await self._left(worker) != watched.left)

    async def _left(self, worker: Process) -> float | None:
        try:
            seen = await metrics(self._live.client, worker.url or "")
        except (httpx.HTTPError, ValueError):
            return None
        return sum(seen.get(name, 0.0) for name in LEFT)
