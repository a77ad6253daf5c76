"""Sees a decode worker that is much slower than its peers: a bad GPU, a noisy neighbour."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pdcache.sglang.idle import Load
from pdcache.topology.schema import Role

if TYPE_CHECKING:
    from pdcache.cluster.live import Live

FACTOR = 3.0
"""How many times slower than its peers a worker may be: batches differ, and so do prompts."""

LOOKS = 12
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
    ordered = sorted(paces.values())
    middle = len(ordered) // 2 - 1
    behind = {}
    for name, pace in paces.items() if len(paces) > 1 else ():
        # Without its own pace those above it move down by one.
        median = ordered[middle + (bisect_left(ordered, pace) <= middle)]
        if pace * FACTOR < median:
            behind[name] = median
    return behind


class SlowWorkers:
    """A slow decode is a DEGRADED reason, for the gateway still gets answers."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._streaks: dict[str, Streak] = {}

    def look(self, seen: Mapping[str, Load]) -> None:
        """Take the loads of one look, by the worker's name."""
        live, streaks = self._live, self._streaks
        serving = {worker.name for worker in live.serving(Role.DECODE)}
        paces = {
            name: own.tokens_per_s / own.running
            for name, own in seen.items()
            if name in serving and own.running and own.tokens_per_s
        }
        behind = paces_behind(paces)
        for name in paces if len(paces) > 1 else ():
            if streaks.setdefault(name, Streak()).look(name in behind):
                text = f"{name} is slow"
                if name in behind:
                    text += f": {paces[name]:.1f} tokens/s a stream, others {behind[name]:.1f}"
                live.degrade(f"slow {name}", text, f"`pdcache restart {name}` replaces it")
            else:
                live.heal(f"slow {name}", f"{name} is as fast as the others")
        for name in streaks.keys() - serving:
            del streaks[name]
            live.heal(f"slow {name}", f"{name} does not serve any more")
