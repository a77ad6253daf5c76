"""Cores that are free help with steps of many new tokens.

A server of the lane has one thread, for servers, gateway and clients share a machine's cores.
Before each layer of a long step it counts the tasks that run on the machine, and takes a thread for
each core that is free; so what starts beside it shares its core for one layer at most.
OpenMP's threads must sleep while they wait for each other (`OMP_WAIT_POLICY=passive`), since cores
may become short in the middle of a layer.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pdcache.sglang_cpu.native import kernels
from pdcache.sglang_cpu.targets import Target

FORWARD = Target("sglang.srt.model_executor.model_runner", "ModelRunner", "forward")

TOKENS_A_THREAD = 12
"""With a second thread 26 new tokens of SmolLM2-135M after 1,088 take 0.82 of the time, 48 take
0.76, 64 take 0.70, and 1,087 without a prefix 0.55."""

LOOKS, APART_S = 3, 1e-4
"""Most of what runs at some instant is done in less: idle servers wake together for a moment."""

LONG_S = 0.01
"""A layer that took longer is worth more than one look."""

MOST_THREADS = 8
"""More than two were not measured; each costs every product some time to wake it."""

RUNNING = Path("/proc/loadavg")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


class Step:
    """A step of many new tokens, and the threads it has.

    Args:
        own: threads it has whatever runs beside it.
        most: threads that are worth it.
        cores: that this process may use.
    """

    def __init__(self, own: int, most: int, cores: int) -> None:
        self.own, self.most, self.cores = own, most, cores
        self.threads = own
        self._looked_at = -LONG_S

    def look(self) -> int:
        """The threads to have from now on."""
        helpers = min(self.most, self.cores) - 1
        again = LOOKS - 1 if time.monotonic() - self._looked_at > LONG_S else 0
        free = self.cores - running()
        while again and free < helpers:
            time.sleep(APART_S)
            free = max(free, self.cores - running())
            again -= 1
        self.threads = max(self.own, 1 + min(helpers, free))
        self._looked_at = time.monotonic()
        return self.threads


_step: Step | None = None
"""That of the thread that runs the model; a process has one."""


def install() -> None:
    """Have the steps of SGLang's model runner helped where there is more than a core to use."""
    forward = FORWARD.get()
    own, cores = torch.get_num_threads(), usable()
    if cores <= own:
        return

    @functools.wraps(forward)
    def helped_forward(self: Any, forward_batch: Any, *args: Any, **kwargs: Any) -> Any:
        extends = forward_batch.forward_mode.is_extend()
        new = (forward_batch.extend_num_tokens or 0) if extends else 0
        with helped(own, min(new // TOKENS_A_THREAD, MOST_THREADS), cores):
            return forward(self, forward_batch, *args, **kwargs)

    FORWARD.set(helped_forward)


@contextlib.contextmanager
def helped(own: int, most: int, cores: int) -> Iterator[None]:
    """Let `adapt` change the threads within the block; afterwards there are `own` again."""
    global _step
    if most <= own:
        yield
        return
    _step = Step(own, most, cores)
    try:
        yield
    finally:
        _step = None
        kernels().use_threads(own)


def adapt() -> None:
    """Have as many threads as cores are free, in a step that is helped; called before a layer."""
    if _step is not None:
        had = _step.threads
        if _step.look() != had:
            kernels().use_threads(_step.threads)


def running() -> int:
    """Tasks that run or wait for a core, on the whole machine, the asking one with them."""
    return int(RUNNING.read_text().split()[3].partition("/")[0])


def usable() -> int:
    """Cores that this process may use: those it is bound to, within its cgroup's quota."""
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = QUOTA.read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores
