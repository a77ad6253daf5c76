"""Whether a scheduler with requests does anything about them, and how long it may do nothing."""

from __future__ import annotations

import json
from enum import Enum, auto
from typing import NamedTuple

from pdcache.changes.kinds import OPTIONS, has_storage
from pdcache.plan.portable import flags
from pdcache.plan.process import Process
from pdcache.sglang.ranks import AWAITED, Rank

STEP_S = 60.0
"""One step of a big prefill on a slow machine takes some seconds; a minute is no step."""

STORE_S = 120.0
"""What a read from L3 may take beside the time for its length. Policy `wait_complete` has no limit,
but the store has: it ends a transfer after 5 s without progress, and a process of it that hangs is
ended after 45 s. A read that met both is over in half of this."""

READ_S, READ_PER_KI_TOKEN_S = 1.0, 0.25
"""What SGLang's policy `timeout` gives a read (0.5.23
``mem_cache/hybrid_cache/hybrid_cache_controller.py``)."""

PEER_LIMITS = (
    "SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT",
    "SGLANG_DISAGGREGATION_WAITING_TIMEOUT",
)
PEER_S = 300.0
"""Both limits, where they are not set (sglang 0.5.23 ``environ.py``)."""


class Wait(Enum):
    """What requests wait for while nothing happens."""

    STEP = auto()
    """The end of a step."""
    OWN = auto()
    """L3, or room in L1, with no other worker in the way."""
    PEERS = auto()
    """Workers of the other role."""


class Still(NamedTuple):
    """How long nothing has happened, and what is waited for."""

    wait: Wait
    for_s: float


class Progress:
    """When a scheduler last did something, on the clock of the caller."""

    def __init__(self) -> None:
        self._before: Rank | None = None
        self._told_s = self._moved_s = 0.0

    def look(self, rank: Rank, now_s: float) -> Still:
        """Take one look; for how long the scheduler has had requests and done nothing."""
        before, self._before = self._before, rank
        if before is None or not rank.busy or rank.at_s != before.at_s:
            self._told_s = now_s
        if before is None or not rank.busy or _moved(before, rank):
            self._moved_s = now_s
        told = Still(Wait.STEP, now_s - self._told_s)
        if rank.running or told.for_s > STEP_S:
            return told
        wait = Wait.OWN if rank.waits_for_nobody else Wait.PEERS
        return Still(wait, now_s - self._moved_s)

    def restart(self, now_s: float) -> None:
        """Something happened that the numbers of the rank do not show."""
        self._moved_s = now_s


def limit_s(still: Still, rank: Rank, worker: Process) -> float:
    """How long it may last; never less than `STEP_S`.

    * L3: what policy `timeout` would give to read all that waits, whatever the policy, and
      `STORE_S`. Under that policy SGLang itself gives up before.
    * Peers: the longer of SGLang's own limits, after which it gives a request up; the minute before
      those that left are counted; and a minute for the step in which it gives up.
    """
    if still.wait is Wait.STEP:
        return STEP_S
    if still.wait is Wait.PEERS:
        return max(float(worker.env.get(name, PEER_S)) for name in PEER_LIMITS) + 2 * STEP_S
    text = flags(worker).get(OPTIONS)
    options = json.loads(text) if text else {}
    per_ki_token_s = float(options.get("prefetch_timeout_per_ki_token", READ_PER_KI_TOKEN_S))
    read_s = float(options.get("prefetch_timeout_base", READ_S))
    return STORE_S + read_s + rank.tokens / 1024 * per_ki_token_s


def words(still: Still, rank: Rank, worker: Process) -> str:
    """What stands still, to be read before a number of seconds."""
    if still.wait is Wait.STEP:
        return "has requests and made no step for"
    if still.wait is Wait.OWN:
        return f"nothing is computed and {_waits(rank.waiting, _own(rank, worker))} for"
    parts = [_waits(count, AWAITED[name]) for name, count in rank.handed.items() if count]
    if rank.waiting:
        parts.append(_waits(rank.waiting, "a place in the batch"))
    return f"nothing is computed and {', '.join(parts) or 'a prompt is half computed'} for"


def _moved(before: Rank, rank: Rank) -> bool:
    """Whether something was done between two looks.

    What counts is what was computed: requests that come, or are taken away by their clients, move
    nothing that waits for L3. From a queue for peers SGLang also takes those that it gives up.
    """
    if rank.running or rank.computed_tokens != before.computed_tokens:
        return True
    if rank.waits_for_nobody or before.waits_for_nobody:
        return rank.waits_for_nobody != before.waits_for_nobody
    return rank.fewer_than(before)


def _own(rank: Rank, worker: Process) -> str:
    if not has_storage(worker):
        return "room in L1"
    fits = rank.tokens <= rank.room_tokens
    return "a prefetch from L3" if fits else "a prefetch from L3 or for room in L1"


def _waits(count: int, awaited: str) -> str:
    subject = "1 request waits" if count == 1 else f"{count} requests wait"
    return f"{subject} for {awaited}"
