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
    # An actor that cannot be placed is an error where its process is to start.
    early = [asyncio.create_task(live.fleet.place(process)) for process in _missing(live)]
    placing = asyncio.gather(*early, return_exceptions=True)
    try:
        for wave in sorted({process.wave for process in plan.processes}):
            if wave >= STORE_CLIENT_WAVE:
                await live.wait_store()
            if wave == plan.role(Role.GATEWAY)[0].wave:
                await live.publish()
            await _start_all(live, [one for one in _missing(live) if one.wave == wave])
    finally:
        placing.cancel()
    await live.wait_registered(workers(plan), plan.role(Role.GATEWAY)[0].start_s)


def _missing(live: Live) -> list[Process]:
    """The processes that are not there yet, the first ones to start first."""
    missing = [
        process
        for process in live.plan.processes
        if live.status(process.name).state is not ProcessState.HEALTHY
    ]
    return sorted(missing, key=lambda process: process.wave)


async def _start_all(live: Live, processes: list[Process]) -> None:
    """Start them in parallel; the first one that fails stops the others' waiting."""
    starts = [asyncio.create_task(live.start(process)) for process in processes]
    try:
        await asyncio.gather(*starts)
    finally:
        for start in starts:
            start.cancel()


def workers(plan: Plan) -> list[Process]:
    """The servers that the gateway sends to."""
    return [*plan.role(Role.PREFILL), *plan.role(Role.DECODE)]
