"""Find and end every process that carries a cluster's mark: what lost its parent is not lost."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from pdcache.cluster.record import CLUSTER_ENV
from pdcache.cluster.supervisor import remove_shared_memory, shared_memory


def marked_processes(cluster_id: str) -> list[int]:
    """Living processes of this machine whose environment carries the cluster's id."""
    mark = f"{CLUSTER_ENV}={cluster_id}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                found.append(int(entry))
    return found


def end_marked(cluster_id: str, *, limit_s: float = 10.0) -> list[int]:
    """SIGKILL every marked process, remove its shared memory; returns pids that would not go."""
    deadline = time.monotonic() + limit_s
    memory: set[int] = set()
    while left := marked_processes(cluster_id):
        memory |= shared_memory(left)
        if time.monotonic() > deadline:
            return left
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    remove_shared_memory(memory)
    return []


def started(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, or None when it does not live."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] == "Z" else int(fields[19])
