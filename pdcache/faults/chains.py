"""Mends chains of pages in L3: once writes succeed, idle prefills forget what they hold.

A prefill that still holds a prompt in L1 or L2 never writes it again, so a prompt that L3 lost
stays lost for every other prefill. After a flush the next turn computes it once, and writes it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from pdcache.changes.change import ChangeState
from pdcache.changes.kinds import has_storage
from pdcache.changes.orphans import end_orphans
from pdcache.errors import PdcacheError
from pdcache.plan.process import Process
from pdcache.proof.bench import Bench
from pdcache.proof.written import unwritten
from pdcache.sglang import admin
from pdcache.topology.schema import Role

if TYPE_CHECKING:
    from pdcache.cluster.live import Live

KEY = "chains"
POLL_S = 1.0
REQUEST_LIMIT_S = 30.0
IDLE_LIMIT_S = 4.0
"""How long a prefill is waited for to be idle by itself before it is taken out for its flush."""

HELD_LIMIT_S = 60.0
OUT = "out for a flush"


async def mend_chains(live: Live, why: str) -> None:
    """Wait until pages reach the store again, then flush every prefill, one at a time.

    The cluster is DEGRADED with the reason until it is done. Cancelled only with the controller,
    and then ``desired.broken`` tells the next one that it is not done.
    """
    live.desired.broken = why
    live.save()
    live.degrade(
        KEY, f"{why}: earlier turns miss on other prefills", "flushing prefills one by one"
    )
    while (still := await _writes_fail(live)) is not None:
        live.reasons[KEY] = f"{why}; {still}"
        await asyncio.sleep(POLL_S)
    flushed: list[str] = []
    for worker in live.plan.role(Role.PREFILL):
        if has_storage(worker) and live.fleet.is_healthy(worker):
            await _flush(live, worker)
            flushed.append(worker.name)
    text = f"pages reach L3, and {', '.join(flushed) or 'nobody'} was flushed"
    if live.desired.broken == why:  # Else a later mend runs, which makes up for this one too.
        live.desired.broken = None
        live.save()
    live.heal(KEY, f"{text}: the next turn of a dialogue writes its pages again")


async def end_flushes(live: Live) -> None:
    """Let in what a controller before this one took out for a flush, and did not let in again."""
    for name in [name for name, why in live.desired.held.items() if why == OUT]:
        # The watch writes the manifest again when the gateway's actor answers.
        with contextlib.suppress(PdcacheError):
            await live.release(name)


async def _writes_fail(live: Live) -> str | None:
    """What keeps pages out of L3 at this moment, or None; asked with a prompt of our own."""
    prefills = [worker for worker in live.serving(Role.PREFILL) if has_storage(worker)]
    decodes = live.serving(Role.DECODE)
    if not prefills or not decodes:
        return "no prefill and decode serve at this moment"
    try:
        async with live.new_client(REQUEST_LIMIT_S) as client:
            bench = Bench(live.plan, client)
            for prefill in prefills:
                if missing := await unwritten(bench, prefill, decodes[0]):
                    return f"{missing} pages of {prefill.name} did not reach L3"
    except PdcacheError as error:
        return error.message
    return None


async def _flush(live: Live, worker: Process) -> None:
    """Flush a prefill: when it is idle by itself, else out of the gateway for a moment."""
    try:
        await admin.flush(live.client, worker, limit_s=IDLE_LIMIT_S)
        return
    except PdcacheError:
        pass
    take_out = _may_take_out(live, worker)
    try:
        if take_out:
            await live.hold(worker.name, OUT)
            await live.wait_gone(worker, HELD_LIMIT_S)
            await end_orphans(live, worker)
        await admin.flush(live.client, worker, limit_s=HELD_LIMIT_S)
    except PdcacheError as error:
        live.events.add(worker.name, "failed", f"could not be flushed: {error.message}")
    finally:
        # A change may have taken it out meanwhile, and then it is the change's.
        if take_out and live.desired.held.get(worker.name) == OUT:
            await live.release(worker.name)
            with contextlib.suppress(PdcacheError):
                await live.wait_registered([worker], HELD_LIMIT_S)


def _may_take_out(live: Live, worker: Process) -> bool:
    """Others serve in its place, no change runs, and nobody else keeps it out already."""
    others = [own for own in live.serving(Role.PREFILL) if own.name != worker.name]
    change = live.desired.change
    changing = change is not None and change.state is ChangeState.RUNNING
    return bool(others) and not changing and worker.name not in live.desired.held
