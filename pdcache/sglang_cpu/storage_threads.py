"""Threads that wait for L3 leave cores to those that compute.

Mooncake 0.3.13 waits for a transfer in a busy loop (transfer_task.cpp). Some servers that wait for
a holder that hangs, 5 s a call, would have all cores of a small machine to themselves, and every
request on it would stand still.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pdcache.sglang_cpu.targets import Target

CONTROLLER = "sglang.srt.managers.cache_controller"
HYBRID = "sglang.srt.mem_cache.hybrid_cache.hybrid_cache_controller"
LOOPS = (
    Target(CONTROLLER, "HiCacheController", "prefetch_io_aux_func"),
    Target(CONTROLLER, "HiCacheController", "backup_thread_func"),
    Target(HYBRID, "HybridCacheController", "backup_thread_func"),
)
"""What SGLang's threads that read and write L3 run."""

CALLS = (
    Target(CONTROLLER, "HiCacheController", "_page_get_zero_copy"),
    Target(CONTROLLER, "HiCacheController", "_page_set_zero_copy"),
)
"""Their calls of the store that move pages."""

STEP_BACK = 10
"""Steps of niceness; a thread that computes gets nine times the share of one that waits."""


LONGEST_TURN_S = 6.0
"""More than Mooncake waits for a holder that makes no progress."""

AGAIN_S = 0.002


def leave_cores() -> None:
    """Have these threads lower their priority, and only half of the cores wait at a time."""
    for target in LOOPS:
        target.set(_with_low_priority(target.get()))
    places = max(1, len(os.sched_getaffinity(0)) // 2)
    for target in CALLS:
        target.set(_in_turn(target.get(), places))


@contextlib.contextmanager
def turn(folder: Path, places: int, *, limit_s: float = LONGEST_TURN_S) -> Iterator[None]:
    """Have one of so many places within the block, which all processes with this folder share.

    After `limit_s` without one it goes on: who has a place may be frozen.
    """
    with contextlib.ExitStack() as opened:
        files = []
        for number in range(places):
            path, flags = folder / f"waits-for-l3-{number}", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC
            files.append(os.open(path, flags, 0o600))
            opened.callback(os.close, files[-1])
        deadline = time.monotonic() + limit_s
        while not any(map(_lock, files)) and time.monotonic() < deadline:
            time.sleep(AGAIN_S)
        yield


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _with_low_priority(loop: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(loop)
    def run(self: Any) -> None:
        own = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, own)
        os.setpriority(os.PRIO_PROCESS, own, min(19, nice + STEP_BACK))
        loop(self)

    return run


def _in_turn(call: Callable[..., Any], places: int) -> Callable[..., Any]:
    @functools.wraps(call)
    def run(*args: Any, **kwargs: Any) -> Any:
        with turn(Path(tempfile.gettempdir()), places):
            return call(*args, **kwargs)

    return run
