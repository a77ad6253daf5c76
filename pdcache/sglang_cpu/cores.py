"""Cores that are free help with steps of many new tokens.

A server of the lane has one thread, for servers, gateway and clients share a machine's cores.
Before each half of a layer of such a step it counts the tasks that run on the machine, and takes a
thread for each core that is free; a long step begins with all. It gives one back when its threads
did not get the cores they could have used: so what starts beside it shares its core for some
layers. OpenMP's threads must sleep while they wait for each other (`OMP_WAIT_POLICY=passive`),
since cores may become short in the middle of a layer.
"""

from __future__ import annotations

import contextlib
import functools
import math
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
"""What took longer is worth more than one look."""

TAKEN, WITHIN_S = 0.6, 0.1
"""Of a core, and the least time to judge by. Idle servers, which wake for moments, take a quarter
of one from a cold prompt of a cluster on two cores, and the prompt before takes most of one for
0.05 s while it is written to L3; a stream of tokens takes most of one as long as it lasts."""

CALM = 3
"""Looks in a row that must find a core free again which others had."""

LONG_STEP = 256
"""New tokens of a step that begins with all cores, since it takes a multiple of `WITHIN_S`: when a
request comes, servers that hear of it run for some milliseconds."""

MOST_THREADS = 8
"""More than two were not measured; each costs every product some time to wake it."""

RUNNING = Path("/proc/loadavg")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


class Step:
    """A step of many new tokens, and the threads it has.

    Args:
        own: threads it has whatever runs beside it.
        new: tokens.
        cores: that this process may use.
    """

    def __init__(self, own: int, new: int, cores: int) -> None:
        self.own, self.cores = own, cores
        self.most = min(new // TOKENS_A_THREAD, MOST_THREADS, cores)
        self.threads = max(own, self.most if new >= LONG_STEP else own)
        self._calm, self._looked = 0, -math.inf
        self._since, self._used = time.monotonic(), time.process_time()

    def look(self) -> int:
        """The threads to have from now on."""
        now, used, had = time.monotonic(), time.process_time(), self.threads
        judged = now - self._since > WITHIN_S
        taken = had - (used - self._used) / (now - self._since) if judged else 0
        if had > self.own and taken > TAKEN:
            self.threads = max(self.own, had - int(taken + 1 - TAKEN))
            self._calm = CALM
        elif had < self.most:
            free = self.free(LOOKS if now - self._looked > LONG_S else 1)
            self._calm = max(self._calm - 1, 0) if free else self._calm and CALM
            if not self._calm:
                self.threads = max(had, 1 + min(self.most - 1, free))
        self._looked = time.monotonic()
        if judged or self.threads != had:
            self._since, self._used = self._looked, time.process_time()
        return self.threads

    def free(self, looks: int) -> int:
        """Cores that nothing runs on, this step and its other threads aside."""
        free = self.cores - running()
        while looks > 1 and free < self.most - 1:
            time.sleep(APART_S)
            free = max(free, self.cores - running())
            looks -= 1
        return max(free, 0)


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
        with helped(own, new, cores):
            return forward(self, forward_batch, *args, **kwargs)

    FORWARD.set(helped_forward)


@contextlib.contextmanager
def helped(own: int, new: int, cores: int) -> Iterator[None]:
    """Let `adapt` change the threads within the block, a step of so many new tokens; afterwards
    there are `own` again."""
    global _step
    step = Step(own, new, cores)
    if step.most <= own:
        yield
        return
    _step = step
    kernels().use_threads(step.threads)
    try:
        yield
    finally:
        _step = None
        kernels().use_threads(own)


def adapt() -> None:
    """In a step that is helped, have as many threads as cores are free; called before each layer,
    or half of one."""
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
