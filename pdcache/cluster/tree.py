"""Sees what is wrong inside a process tree whose head still runs: frozen, or a part is gone."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pdcache.cluster.supervisor import descendants

LIST_S = 5.0
"""How long a list of a tree's processes is used."""

SETTLE_S = 0.5
"""The same while a list has children of a server that the one before had not."""

PERMANENT = "sglang::"
"""Names of the children without which an SGLang server cannot go on; others come and go."""


@dataclass(frozen=True)
class TreeState:
    """What one look at a tree saw.

    Attributes:
        frozen: a process is stopped (SIGSTOP, a frozen cgroup): it lives, and does nothing.
        torn: a scheduler or detokenizer is gone. SGLang's server ends 5 to 6 s later by itself,
            and answers nobody in between (sglang 0.5.23, run).
    """

    frozen: bool = False
    torn: bool = False


class Tree:
    """Looks at a process and its descendants; cheap enough to be asked several times a second."""

    def __init__(self) -> None:
        self._head: int | None = None
        self._pids: list[int] = []
        self._permanent: set[int] = set()
        self._seen: set[int] = set()
        self._listed_s = 0.0
        self._stopped = False

    def look(self, head: int) -> TreeState:
        """One look. Frozen only if the look before saw it too: a profiler stops for an instant."""
        now = time.monotonic()
        if head != self._head:
            self._head, self._listed_s = head, 0.0
            self._permanent, self._seen = set(), set()
        states = {pid: _state(pid) for pid in self._pids}
        torn = any(states.get(pid, "") in ("", "Z") for pid in self._permanent)
        # A scheduler that is lost right after the start is missed too.
        if now - self._listed_s > (SETTLE_S if self._seen - self._permanent else LIST_S):
            self._pids, self._listed_s = [head, *descendants(head)], now
            # A child that a list saw once may be about to become another program: it has the name
            # of who forked it until then.
            seen = {pid for pid in self._pids if _name(pid).startswith(PERMANENT)}
            self._permanent |= seen & self._seen
            self._seen = seen
        before, self._stopped = self._stopped, "T" in states.values()
        return TreeState(frozen=before and self._stopped, torn=torn)


def _state(pid: int) -> str:
    """State letter of ``/proc/PID/stat``; empty when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            text = stat.read()
    except OSError:
        return ""
    return text[text.rindex(b")") + 2 :][:1].decode()


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as comm:
            return comm.read().strip()
    except OSError:
        return ""
