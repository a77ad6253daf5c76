"""Sees that L3 writes of a prefill fail: SGLang counts what it handed over and what was stored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from pdcache.changes.kinds import has_storage
from pdcache.faults.chains import KEY, mend_chains
from pdcache.sglang.admin import metrics
from pdcache.topology.schema import Role

if TYPE_CHECKING:
    from pdcache.cluster.live import Live

EVERY_S = 2.0
SETTLED_LOOKS = 3
SURE_S = 60.0
"""After that a worker is asked whatever its load says."""

HANDED = "sglang:hicache_backup_tokens_total"
STORED = "sglang:backuped_tokens_total"


@dataclass
class Gap:
    """Tokens that a prefill handed over to L3 and that did not arrive.

    What is missing at the first look is no loss of ours to see: the difference also grows while a
    worker is detached (sglang 0.5.23, run).
    """

    handed: float
    lost: float
    missing: float = 0.0
    looks: int = 0

    @property
    def settled(self) -> bool:
        """Nothing is on its way, and nothing more was handed over for a while."""
        return self.missing <= 0 and self.looks >= SETTLED_LOOKS

    def look(self, handed: float, stored: float) -> float:
        """Tokens that turned out to be lost.

        What is missing while nothing more is handed over, for `SETTLED_LOOKS`, is lost; before
        that it may be on its way.
        """
        missing = handed - stored - self.lost
        same = handed == self.handed and missing == self.missing
        self.looks = self.looks + 1 if same else 0
        self.handed, self.missing = handed, missing
        if missing <= 0 or self.looks < SETTLED_LOOKS:
            return 0.0
        self.lost, self.missing = handed - stored, 0.0
        return missing


@dataclass
class Watched:
    """One incarnation of a prefill: its gap, and what was known when it was last asked."""

    gap: Gap | None = None
    told_s: float | None = None
    asked_s: float = 0.0

    def is_due(self, told_s: float | None, now_s: float) -> bool:
        """Whether its page of metrics can say anything new.

        A page of an idle worker is the same as before, and costs a millisecond to read.

        Args:
            told_s: when its schedulers last told their load, which they do at every step; None if
                that is not known.
            now_s: the caller's clock.
        """
        if self.gap is None or told_s is None or not self.gap.settled:
            return True
        return told_s != self.told_s or now_s - self.asked_s >= SURE_S

    def look(self, seen: Mapping[str, float], told_s: float | None, now_s: float) -> float:
        """Take one page of metrics; tokens that turned out to be lost."""
        handed, stored = seen.get(HANDED, 0.0), seen.get(STORED, 0.0)
        if self.gap is None:
            self.gap = Gap(handed, handed - stored)
        self.told_s, self.asked_s = told_s, now_s
        return self.gap.look(handed, stored)


async def watch_writes(live: Live) -> None:
    """Look for ever at what every prefill could not write; then mend the chains it broke."""
    known: dict[tuple[str, int], Watched] = {}
    while True:
        lost: dict[str, float] = {}
        for worker in live.plan.role(Role.PREFILL):
            key = (worker.name, live.status(worker.name).incarnation)
            if not has_storage(worker):
                known.pop(key, None)
            if not has_storage(worker) or not live.fleet.is_healthy(worker):
                continue
            own, now_s = known.setdefault(key, Watched()), time.monotonic()
            load = live.loads.get(worker.name)
            told_s = load.at_s if load is not None else None
            if not own.is_due(told_s, now_s):
                continue
            try:
                seen = await metrics(live.client, worker.url or "")
            except (httpx.HTTPError, ValueError):
                continue
            if tokens := own.look(seen, told_s, now_s):
                lost[worker.name] = tokens
        if lost and KEY not in live.reasons:
            text = ", ".join(f"{tokens:.0f} tokens of {name}" for name, tokens in lost.items())
            await mend_chains(live, f"{text} did not reach L3")
        await asyncio.sleep(EVERY_S)
