"""What one data parallel rank of an SGLang worker has to do, and what it has done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

INFLIGHT = "prefill_inflight_queue_reqs"

AWAITED = {
    "prefill_bootstrap_queue_reqs": "decode's side of it",
    INFLIGHT: "its KV to reach decode",
    "decode_prealloc_queue_reqs": "prefill's side of it, or for room in L1",
    "decode_transfer_queue_reqs": "its KV",
    "decode_retracted_queue_reqs": "room in L1 to go on",
}
"""The queues of disaggregation, and what a request in each waits for (sglang 0.5.23
``managers/load_snapshot.py``, `DisaggregationMetrics`)."""


@dataclass(frozen=True)
class Rank:
    """The load snapshot of one scheduler.

    SGLang makes it (0.5.23 ``managers/scheduler_components/load_inquirer.py``) after every step,
    and every 50 ms while requests are parked and nothing is computed (``managers/scheduler.py``,
    `on_idle`): a new `at_s` says that the event loop turns, and no more.

    Attributes:
        at_s: when it was made, wall clock.
        prefills: it is a prefill's.
        running: requests in the batch of decode; prefill has none there.
        waiting: requests in the scheduler's own queue. On prefill they wait for L3 or for room in
            L1, on decode for a place in the batch.
        handed: requests in the queues of `AWAITED`.
        uncomputed_tokens: of prompts in that queue, and of the one that is computed in chunks,
            which stands in no queue.
        computed_tokens: prompt tokens that it ever computed. Grows with every step of prefill, for
            the last token of a prompt is computed even if all are in the cache.
        tokens: L1 that is in use, and prompts that want a place in it.
        room_tokens: L1.
    """

    at_s: float
    prefills: bool = False
    running: int = 0
    waiting: int = 0
    handed: Mapping[str, int] = field(default_factory=dict)
    uncomputed_tokens: int = 0
    computed_tokens: int = 0
    tokens: int = 0
    room_tokens: int = 0

    @property
    def busy(self) -> bool:
        """Whether it has requests."""
        held = (self.running, self.waiting, self.uncomputed_tokens, *self.handed.values())
        return any(held)

    @property
    def waits_for_nobody(self) -> bool:
        """Whether prompts wait though decode is ready, and no KV on its way there holds L1."""
        return self.prefills and self.waiting > 0 and not self.handed.get(INFLIGHT)

    def fewer_than(self, before: Rank) -> bool:
        """Whether requests left a queue, whatever came meanwhile."""
        left = self.waiting < before.waiting
        return left or any(self.handed.get(name, 0) < was for name, was in before.handed.items())


def rank_of(row: Mapping[str, Any]) -> Rank:
    """The rank that a row of ``/v1/loads`` with its sections disagg and queues tells of.

    Raises:
        ValueError, TypeError, AttributeError: the row is not SGLang's.
    """
    handed, queues = row.get("disaggregation") or {}, row.get("queues") or {}
    return Rank(
        at_s=float(row.get("timestamp", 0.0)),
        prefills=handed.get("mode") == "prefill",
        running=int(row.get("num_running_reqs", 0)),
        waiting=int(queues.get("waiting", 0)),
        handed={name: int(handed.get(name, 0)) for name in AWAITED},
        uncomputed_tokens=int(row.get("num_waiting_uncached_tokens", 0)),
        computed_tokens=int(row.get("total_prefill_uncached_tokens", 0)),
        tokens=int(row.get("num_total_tokens", 0)),
        room_tokens=int(row.get("max_total_num_tokens", 0)),
    )
