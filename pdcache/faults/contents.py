"""Sees that the store lost what it held: chains are then broken silently, and are healed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from pdcache.faults.chains import mend_chains
from pdcache.plan.process import Plan
from pdcache.sglang.admin import parse_metrics
from pdcache.store.health import healthy
from pdcache.topology.schema import Role

if TYPE_CHECKING:
    from pdcache.cluster.live import Live

EVERY_S = 1.0
ASK_LIMIT_S = 2.0
UNHEALTHY_AFTER = 2
LOST_SHARE = 0.5
"""Eviction takes some percent of the keys at a time; a fall below this share is a loss."""

KEPT_SHARE = 0.8
"""How near what the next controller finds is to what the store holds, so that it sees a loss."""

KEYS = "master_key_count"


@dataclass(frozen=True)
class Contents:
    """What is known of what a store holds.

    Attributes:
        starts: incarnations of the processes whose death loses pages.
        keys: objects it holds; None when it does not tell.
    """

    starts: dict[str, int]
    keys: float | None

    def lost(self, before: Contents) -> str | None:
        """What was lost since an earlier look, or None."""
        again = [name for name, count in self.starts.items() if count > before.starts.get(name, 0)]
        if again:
            return f"{', '.join(again)} was started anew, so pages of L3 are gone"
        if self.keys is not None and before.keys and self.keys < before.keys * LOST_SHARE:
            return f"the store holds {self.keys:.0f} objects, and held {before.keys:.0f}"
        return None

    def is_near(self, kept: Contents | None) -> bool:
        """Whether a loss after this look shows as well against what was kept."""
        if kept is None or self.starts != kept.starts:
            return False
        if self.keys is None or kept.keys is None:
            return self.keys is None
        return min(self.keys, kept.keys) >= max(self.keys, kept.keys) * KEPT_SHARE


async def watch_store(live: Live) -> None:
    """Look at the store for ever: does it serve, and does it still hold what it held.

    What a controller before this one saw, and what it did not finish to mend, is taken up.
    """
    misses = 0
    known, unfinished = live.desired.contents, live.desired.broken
    async with httpx.AsyncClient(timeout=ASK_LIMIT_S, trust_env=False) as client:
        while True:
            ill = await healthy(client, live.plan.store)
            misses = misses + 1 if ill else 0
            if misses >= UNHEALTHY_AFTER:
                text = f"the store does not serve ({ill}): requests go on with misses"
                live.degrade("store", text, "waiting for it; workers are left alone")
            elif not ill:
                live.heal("store", "the store serves again")
                now = await contents(live, client)
                why = unfinished or (now.lost(known) if known is not None else None)
                if why is not None:
                    await mend_chains(live, why)
                    now, unfinished = await contents(live, client), None
                known = now
                _keep(live, now)
            await asyncio.sleep(EVERY_S)


def _keep(live: Live, now: Contents) -> None:
    """Seldom: not each object that is written is worth a write to Ray's GCS."""
    if not now.is_near(live.desired.contents):
        live.desired.contents = now
        live.save()


async def contents(live: Live, client: httpx.AsyncClient) -> Contents:
    """What the store holds at this moment."""
    keys = None
    for url in live.plan.store.urls if live.plan.store.backend == "mooncake" else ():
        try:
            response = await client.get(f"{url}/metrics")
            response.raise_for_status()
        except httpx.HTTPError:
            continue
        keys = max(keys or 0.0, parse_metrics(response.text).get(KEYS, 0.0))
    starts = {name: live.status(name).incarnation for name in holding_processes(live.plan)}
    return Contents(starts, keys)


def holding_processes(plan: Plan) -> list[str]:
    """Store processes whose death loses pages: a master only where no other takes over."""
    store = [process.name for process in plan.role(Role.STORE)]
    masters = [name for name in store if name.startswith("store-master")]
    spared = {"store-etcd", *(masters if len(masters) > 1 else ())}
    return [name for name in store if name not in spared]
