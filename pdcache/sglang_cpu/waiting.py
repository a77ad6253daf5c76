"""A scheduler that waits for a transfer looks again after a pause, not at once.

SGLang 0.5.23 (managers/scheduler.py, `on_idle`) polls without one while a request waits for KV from
L3 or from its other half, and while pages are on their way to L3. Each such server takes a core,
which on a machine with few of them the awaited work needs: with one prefill and one decode worker
on two cores, a cold prompt takes a tenth longer.
"""

from __future__ import annotations

import time
from typing import Any

from pdcache.sglang_cpu.targets import Target

IDLE = Target("sglang.srt.managers.scheduler", "Scheduler", "on_idle")
FULLY_IDLE = Target("sglang.srt.managers.scheduler", "Scheduler", "is_fully_idle")

PAUSE_S = 0.001


def pause_between_looks() -> None:
    """Add the pause to a step of the scheduler that found nothing to compute."""
    idle, fully_idle = IDLE.get(), FULLY_IDLE.get()

    def on_idle(self: Any) -> None:
        idle(self)
        if not fully_idle(self):
            time.sleep(PAUSE_S)

    IDLE.set(on_idle)
