"""Sees a decode worker that is much slower than its peers: a bad GPU, a noisy neighbour."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median_low
from typing import TYPE_CHECKING

from pdcache.errors import ClusterError
from pdcache.sglang.idle import load
from pdcache.topology.schema import Role

if TYPE_CHECKING:
    from pdcache.cluster.live import Live

EVERY_S = 5.0
FACTOR = 3.0
"""How many times slower than its peers a worker may be: batches differ, and so do prompts."""

LOOKS = 6
"""Looks in a row after which it is told, and after which it is well again."""


@dataclass
class Streak:
    """How many looks in a row said the same, and what holds until as many say otherwise."""

    slow: bool = False
    against: int = 0

    def look(self, slow: bool) -> bool:
        """Take one look; whether the worker counts as slow."""
        self.against = 0 if slow is self.slow else self.against + 1
        if self.against >= LOOKS:
            self.slow, self.against = slow, 0
        return self.slow


def paces_behind(paces: Mapping[str, float]) -> dict[str, float]:
    """The lower median of the others' paces for each worker `FACTOR` times slower than that.

    Args:
        paces: tokens a second of each stream, by worker; those without a stream are left out.
    """
    behind = {}
    for name, pace in paces.items():
        others = [other for peer, other in paces.items() if peer != name]
        if others and pace * FACTOR < median_low(others):
            behind[name] = median_low(others)
    return behind


async def watch_pace(live: Live) -> None:
    """Look for ever; a slow worker is a DEGRADED reason, for the gateway still gets answers."""
    streaks: dict[str, Streak] = {}
    while True:
        serving = live.serving(Role.DECODE)
        paces: dict[str, float] = {}
        for worker in serving:
            try:
                seen = await load(live.client, worker)
            except ClusterError:
                continue
            if seen.running and seen.tokens_per_s:
                paces[worker.name] = seen.tokens_per_s / seen.running
        behind = paces_behind(paces)
        for name in paces if len(paces) > 1 else ():
            if streaks.setdefault(name, Streak()).look(name in behind):
                text = f"{name} is slow"
                if name in behind:
                    text += f": {paces[name]:.1f} tokens/s a stream, others {behind[name]:.1f}"
                live.degrade(f"slow {name}", text, f"`pdcache restart {name}` replaces it")
            else:
                live.heal(f"slow {name}", f"{name} is as fast as the others")
        for name in streaks.keys() - {worker.name for worker in serving}:
            del streaks[name]
            live.heal(f"slow {name}", f"{name} does not serve any more")
        await asyncio.sleep(EVERY_S)
