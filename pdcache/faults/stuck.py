"""Sees a server whose scheduler makes no progress though it has requests."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pdcache.sglang.idle import Load
from pdcache.topology.schema import WORKER_ROLES

if TYPE_CHECKING:
    from pdcache.cluster.live import Live

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


class StuckWorkers:
    """Ends a server that is stuck, and so it is started again."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._known: dict[tuple[str, int], Progress] = {}

    async def look(self, seen: Mapping[str, Load]) -> None:
        """Take the loads of one look, by the worker's name."""
        now_s, live = time.monotonic(), self._live
        for worker in (own for role in WORKER_ROLES for own in live.plan.role(role)):
            if worker.name not in seen or not live.fleet.is_healthy(worker):
                continue
            key = (worker.name, live.status(worker.name).incarnation)
            stuck_s = self._known.setdefault(key, Progress()).look(seen[worker.name], now_s)
            if stuck_s > STUCK_AFTER_S:
                text = f"has requests and made no step for {stuck_s:.0f} s"
                live.events.add(worker.name, "stuck", text, "ended, to be started again")
                await live.fleet.end(worker, text, at_once=True)
