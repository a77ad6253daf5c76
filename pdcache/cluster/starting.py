"""Brings a plan up wave by wave: store, then prefill and decode in parallel, then the gateway."""

from __future__ import annotations

import asyncio

from pdcache.cluster.live import Live
from pdcache.cluster.states import ProcessState
from pdcache.plan.process import Plan, Process
from pdcache.store.backend import STORE_CLIENT_WAVE
from pdcache.topology.schema import Role


async def bring_up(live: Live) -> None:
    """Start every process; those that an earlier controller started are waited for only.

    Raises:
        ClusterError: a process failed, or the store or the gateway did not answer.
    """
    plan = live.plan
    for wave in sorted({process.wave for process in plan.processes}):
        members = [process for process in plan.processes if process.wave == wave]
        if wave >= STORE_CLIENT_WAVE:
            await live.wait_store()
        if any(process.role is Role.GATEWAY for process in members):
            await live.publish()
        starts = [
            asyncio.create_task(live.start(process))
            for process in members
            if live.status(process.name).state is not ProcessState.HEALTHY
        ]
        try:
            await asyncio.gather(*starts)
        finally:
            for start in starts:
                start.cancel()
    await live.wait_registered(workers(plan), plan.role(Role.GATEWAY)[0].start_s)


def workers(plan: Plan) -> list[Process]:
    """The servers that the gateway sends to."""
    return [*plan.role(Role.PREFILL), *plan.role(Role.DECODE)]
