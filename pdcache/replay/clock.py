"""Seconds from the start of a replay, over all its runs."""

from __future__ import annotations

import asyncio
import time


class Clock:
    """Runs on from the seconds that earlier runs lasted."""

    def __init__(self, elapsed_s: float = 0.0) -> None:
        self._start_s = time.perf_counter() - elapsed_s

    def now_s(self) -> float:
        """Seconds from the start."""
        return time.perf_counter() - self._start_s

    def of(self, perf_counter_s: float) -> float:
        """Seconds from the start to a moment of `time.perf_counter`."""
        return perf_counter_s - self._start_s

    async def wait_until(self, at_s: float) -> None:
        """Sleep until that many seconds from the start, if they are not over."""
        await asyncio.sleep(max(0.0, at_s - self.now_s()))
