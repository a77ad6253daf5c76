"""What an SGLang worker still has to do, asked from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from pdcache.errors import ClusterError
from pdcache.plan.process import Process
from pdcache.sglang.ranks import Rank, rank_of

PATH = "/v1/loads?include=core,disagg,queues"
"""Tells what a worker has to do (sglang 0.5.23 ``managers/load_snapshot.py``)."""


@dataclass(frozen=True)
class Load:
    """What a worker holds, summed over its data parallel ranks.

    Attributes:
        running, waiting: requests.
        queued: requests in the queues of disaggregation, by the queue's name.
        tokens_per_s: decoded over the last batches that it logged, all streams together.
        at_s: when the slowest of its schedulers last told, wall clock; SGLang keeps it in shared
            memory, so a scheduler that hangs does not hang the answer.
        ranks: what each rank told.
    """

    running: int
    waiting: int
    queued: dict[str, int]
    at_s: float
    tokens_per_s: float = 0.0
    ranks: tuple[Rank, ...] = ()

    @property
    def busy(self) -> str | None:
        """What it has to do, or None."""
        parts = {"running": self.running, "waiting": self.waiting, **self.queued}
        return ", ".join(f"{count} {name}" for name, count in parts.items() if count) or None


async def load(client: httpx.AsyncClient, worker: Process) -> Load:
    """What a worker has to do.

    Raises:
        ClusterError: it does not answer as SGLang does.
    """
    try:
        response = await client.get(f"{worker.url}{PATH}")
        response.raise_for_status()
        return load_of(response.json())
    except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ClusterError(
            f"does not tell its load: {str(error) or type(error).__name__}.", where=worker.name
        ) from None


def load_of(answer: Any) -> Load:
    """The load that an answer tells.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: it is not SGLang's.
    """
    rows: list[dict[str, Any]] = answer["loads"]
    queued: dict[str, int] = {}
    for row in rows:
        for section in ("disaggregation", "queues"):
            for name, count in (row.get(section) or {}).items():
                if isinstance(count, int) and not isinstance(count, bool) and _is_queue(name):
                    queued[name] = queued.get(name, 0) + count
    return Load(
        running=sum(int(row.get("num_running_reqs", 0)) for row in rows),
        waiting=sum(int(row.get("num_waiting_reqs", 0)) for row in rows),
        queued=queued,
        tokens_per_s=sum(float(row.get("gen_throughput") or 0.0) for row in rows),
        at_s=min((float(row.get("timestamp", 0.0)) for row in rows), default=0.0),
        ranks=tuple(rank_of(row) for row in rows),
    )


def _is_queue(name: str) -> bool:
    """Whether a number of a load is one of requests.

    `retracted` is how many were retracted before the last line of the log, and stays while the
    worker is idle (sglang 0.5.23 ``managers/scheduler_components/metrics_reporter.py``); those that
    wait to go on are in ``decode_retracted_queue_reqs``.
    """
    return name.endswith(("_queue_reqs", "_reqs", "_queue", "waiting", "grammar"))
