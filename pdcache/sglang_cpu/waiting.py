"""A scheduler that waits for a transfer looks again after a pause, not at once.

SGLang 0.5.23 (managers/scheduler.py, `on_idle`) polls without one while a request waits for KV from
L3 or from its other half, and while pages are on their way to L3. Each such server takes a core,
which on a machine with few of them the awaited work needs: with one prefill and one decode worker
on two cores, a cold prompt takes a tenth longer.
"""

from __future__ import annotations

import math
import time
from typing import Any

from pdcache.sglang_cpu.targets import Target

IDLE = Target("sglang.srt.managers.scheduler", "Scheduler", "on_idle")
FULLY_IDLE = Target("sglang.srt.managers.scheduler", "Scheduler", "is_fully_idle")

PAUSE_S, LONGEST_PAUSE_S = 0.001, 0.005

PART = 0.01
"""Of what was waited; with pauses of 1 ms decode's looks took an eighth of a core while prefill
computed a prompt."""


class Wait:
    """How long a scheduler has waited, with nothing to compute meanwhile."""

    def __init__(self) -> None:
        self._batches, self._since = -1, -math.inf

    def over(self) -> None:
        """Nothing is waited for."""
        self._batches = -1

    def pause_s(self, batches: int, now: float) -> float:
        """Seconds to pause at this look, after so many batches that were computed."""
        if batches != self._batches:
            self._batches, self._since = batches, now
        return min(max(PAUSE_S, PART * (now - self._since)), LONGEST_PAUSE_S)


def pause_between_looks() -> None:
    """Add the pause to a step of the scheduler that found nothing to compute."""
    idle, fully_idle = IDLE.get(), FULLY_IDLE.get()
    wait = Wait()

    def on_idle(self: Any) -> None:
        idle(self)
        if fully_idle(self):
            wait.over()
        else:
            time.sleep(wait.pause_s(self.forward_ct, time.monotonic()))

    IDLE.set(on_idle)
