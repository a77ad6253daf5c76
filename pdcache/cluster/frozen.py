"""Sees that a process is stopped (SIGSTOP, a frozen cgroup): it lives, and does nothing."""

from __future__ import annotations

import time

from pdcache.cluster.supervisor import descendants

TREE_S = 3.0
"""How long a list of a tree's processes is used."""


class FrozenTree:
    """Looks at a process and its descendants; cheap enough to be asked several times a second."""

    def __init__(self) -> None:
        self._head: int | None = None
        self._pids: list[int] = []
        self._listed_s = 0.0
        self._before = False

    def seen(self, head: int) -> bool:
        """Whether one of them is stopped at this look and was at the last one.

        Twice, because a profiler stops a process for some milliseconds.
        """
        now = time.monotonic()
        if head != self._head or now - self._listed_s > TREE_S:
            self._head, self._pids = head, [head, *descendants(head)]
            self._listed_s = now
        before, self._before = self._before, any(_state(pid) == "T" for pid in self._pids)
        return before and self._before


def _state(pid: int) -> str:
    """State letter of ``/proc/PID/stat``; empty when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            text = stat.read()
    except OSError:
        return ""
    return text[text.rindex(b")") + 2 :][:1].decode()
