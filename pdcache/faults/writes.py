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
SETTLED_LOOKS = 3
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


async def watch_writes(live: Live) -> None:
    """Look for ever at what every prefill could not write; then mend the chains it broke."""
    gaps: dict[tuple[str, int], Gap] = {}
    while True:
        lost: dict[str, float] = {}
        for worker in live.plan.role(Role.PREFILL):
            key = (worker.name, live.status(worker.name).incarnation)
            if not has_storage(worker):
                gaps.pop(key, None)
            if not has_storage(worker) or not live.fleet.is_healthy(worker):
                continue
            try:
                seen = await metrics(live.client, worker.url or "")
            except (httpx.HTTPError, ValueError):
                continue
            handed, stored = seen.get(HANDED, 0.0), seen.get(STORED, 0.0)
            gap = gaps.setdefault(key, Gap(handed, handed - stored))
            tokens = gap.look(handed, stored)
            if tokens:
                lost[worker.name] = tokens
        if lost and KEY not in live.reasons:
            text = ", ".join(f"{tokens:.0f} tokens of {name}" for name, tokens in lost.items())
            await mend_chains(live, f"{text} did not reach L3")
        await asyncio.sleep(EVERY_S)
