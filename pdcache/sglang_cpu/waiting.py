"""A scheduler that waits for a transfer looks again after a pause, or when it is told.

SGLang 0.5.23 (managers/scheduler.py, `on_idle`) polls without one while a request waits for KV from
L3 or from its other half, and while pages are on their way to L3. Each such server takes a core,
which on a machine with few of them the awaited work needs: with one prefill and one decode worker
on two cores, a cold prompt takes a tenth longer.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import zmq

from pdcache.sglang_cpu.targets import Target

SCHEDULER = "sglang.srt.managers.scheduler"
IDLE = Target(SCHEDULER, "Scheduler", "on_idle")
FULLY_IDLE = Target(SCHEDULER, "Scheduler", "is_fully_idle")
STATUS = Target("sglang.srt.disaggregation.common.conn", "CommonKVManager", "update_status")
"""What the threads that hear of transfers call."""

PAUSE_S = 0.001

PART, LONGEST_PAUSE_S = 0.01, 0.005
"""Of what was waited; with pauses of 1 ms decode's looks took an eighth of a core while prefill
computed a prompt."""

TOLD_PART, TOLD_LONGEST_PAUSE_S = 0.1, 0.05
"""The same where all that is waited for tells when it is there: a look of a decode server takes
0.6 ms of a core that computes a prompt, and what that has in its caches."""


class Wait:
    """How long a scheduler has waited, with nothing to compute meanwhile."""

    def __init__(self) -> None:
        self._batches, self._since = -1, -math.inf

    def over(self) -> None:
        """Nothing is waited for."""
        self._batches = -1

    def pause_s(self, batches: int, now: float, *, told: bool = False) -> float:
        """Seconds to pause at this look, after so many batches that were computed."""
        if batches != self._batches:
            self._batches, self._since = batches, now
        part, longest = (TOLD_PART, TOLD_LONGEST_PAUSE_S) if told else (PART, LONGEST_PAUSE_S)
        return min(max(PAUSE_S, part * (now - self._since)), longest)


class Bell:
    """Ends a pause of this process's scheduler, from any thread."""

    def __init__(self) -> None:
        self._rung = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        """End the pause, or the next one at once."""
        os.eventfd_write(self._rung, 1)

    def pause(self, seconds: float, sockets: Sequence[zmq.Socket[bytes]]) -> None:
        """Pause until it rings or a socket has something, and no longer than asked."""
        poller = zmq.Poller()
        for heard in (self._rung, *sockets):
            poller.register(heard, zmq.POLLIN)
        if (self._rung, zmq.POLLIN) in poller.poll(math.ceil(seconds * 1000)):
            os.eventfd_read(self._rung)


_bell: Bell | None = None
"""Of the process; servers that are forked would share one from before."""


def pause_between_looks() -> None:
    """Add the pause to a step of the scheduler that found nothing to compute."""
    idle, fully_idle, update = IDLE.get(), FULLY_IDLE.get(), STATUS.get()
    wait = Wait()

    def on_idle(self: Any) -> None:
        global _bell
        idle(self)
        if fully_idle(self):
            wait.over()
            return
        if _bell is None:
            _bell = Bell()
        sleeper = self.idle_sleeper
        sockets = [socket for socket, _ in sleeper.poller.sockets] if sleeper else []
        told = bool(sockets) and awaits_prefill_only(self)
        _bell.pause(wait.pause_s(self.forward_ct, time.monotonic(), told=told), sockets)

    @functools.wraps(update)
    def update_status(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = update(self, *args, **kwargs)
        if _bell is not None:
            _bell.ring()
        return result

    IDLE.set(on_idle)
    STATUS.set(update_status)


def awaits_prefill_only(scheduler: Any) -> bool:
    """Whether a scheduler is decode's, and waits for transfers from prefill and nothing else."""
    transfers = getattr(scheduler, "disagg_decode_transfer_queue", None)
    if transfers is None or not transfers.queue:
        return False
    offload = scheduler.decode_offload_manager
    return not (
        scheduler.waiting_queue
        or scheduler.disagg_decode_prealloc_queue.queue
        or scheduler.disagg_decode_prealloc_queue.retracted_queue
        or (offload is not None and offload.ongoing_offload)
    )
