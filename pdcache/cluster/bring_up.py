"""Bring a plan up: controller, processes wave by wave, told as it goes."""

from __future__ import annotations

import time
from collections.abc import Callable

from pdcache.cluster.client import ClusterClient, create_controller
from pdcache.cluster.record import Record
from pdcache.cluster.states import ClusterStatus, ProcessState
from pdcache.errors import ClusterError
from pdcache.plan.process import Plan
from pdcache.sglang.keys import Keys
from pdcache.topology.schema import Topology

POLL_S = 0.3


def bring_up(
    record: Record,
    plan: Plan,
    topology: Topology,
    keys: Keys,
    *,
    limit_s: float,
    on_status: Callable[[ClusterStatus], None],
) -> ClusterClient:
    """Start every process of a plan and wait until all are healthy and behind the gateway.

    Raises:
        ClusterError: one of them failed (named, with the end of its log), or the limit passed.
    """
    begin = time.monotonic()
    client = create_controller(record, limit_s=plan.timeouts["ray_s"])
    client.deploy(plan, topology, keys)
    while True:
        status = client.status()
        on_status(status)
        if status.failed is not None:
            raise ClusterError(status.failed, log_tail="\n".join(status.reasons[1:]) or None)
        if status.serving:
            return client
        if time.monotonic() - begin > limit_s:
            slow = [own.name for own in status.workers if own.state is not ProcessState.HEALTHY]
            raise ClusterError(
                f"not up after {limit_s:.0f} s; still waiting for {', '.join(slow) or 'gateway'}.",
                where=plan.name,
                remedy="Give more time with --timeout, or look at the logs of those processes.",
            )
        time.sleep(POLL_S)
