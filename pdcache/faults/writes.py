"""Sees that L3 writes of a prefill fail: SGLang counts what it handed over and what was stored."""

from __future__ import annotations

import asyncio
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
HANDED = "sglang:hicache_backup_tokens_total"
STORED = "sglang:backuped_tokens_total"


@dataclass
class Gap:
    """Tokens that a prefill handed over to L3 and that did not arrive, as last seen."""

    handed: float = 0.0
    lost: float = 0.0
    pending: float = 0.0

    def look(self, handed: float, stored: float) -> float:
        """Tokens lost since the last look.

        What is missing while nothing more is handed over is lost; before that it may be on its
        way. Counters that went back belong to a new incarnation.
        """
        if handed < self.handed:
            self.handed, self.lost, self.pending = 0.0, 0.0, 0.0
        missing = max(0.0, handed - stored - self.lost)
        settled = min(missing, self.pending) if handed == self.handed else 0.0
        self.handed, self.pending = handed, missing
        self.lost += settled
        return settled


async def watch_writes(live: Live) -> None:
    """Look for ever at what every prefill could not write; then mend the chains it broke."""
    gaps: dict[str, Gap] = {}
    while True:
        lost: dict[str, float] = {}
        for worker in live.plan.role(Role.PREFILL):
            if not has_storage(worker) or not live.fleet.is_healthy(worker):
                continue
            try:
                seen = await metrics(live.client, worker.url or "")
            except (httpx.HTTPError, ValueError):
                continue
            gap = gaps.setdefault(worker.name, Gap())
            tokens = gap.look(seen.get(HANDED, 0.0), seen.get(STORED, 0.0))
            if tokens:
                lost[worker.name] = tokens
        if lost and KEY not in live.reasons:
            text = ", ".join(f"{tokens:.0f} tokens of {name}" for name, tokens in lost.items())
            await mend_chains(live, f"{text} did not reach L3")
        await asyncio.sleep(EVERY_S)
