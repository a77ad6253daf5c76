"""What a step does. Every action is idempotent: a controller that died may have done half of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pdcache.changes.change import Step
from pdcache.changes.kinds import BACKEND, OPTIONS, PREFETCH, WRITE, detached, has_storage
from pdcache.changes.orphans import end_orphans
from pdcache.changes.steps import DEFINE
from pdcache.cluster.readmission import prove_again
from pdcache.cluster.states import ProcessState
from pdcache.errors import ClusterError
from pdcache.plan.portable import flags
from pdcache.plan.process import Plan, Process
from pdcache.proof.bench import Bench
from pdcache.proof.written import unwritten
from pdcache.sglang import admin, storage
from pdcache.sglang.idle import load
from pdcache.store.health import healthy
from pdcache.topology.schema import Role

if TYPE_CHECKING:
    from pdcache.cluster.live import Live

POLL_S = 0.25
QUIET_LIMIT_S = 5.0
"""How long a worker may take to be idle by itself before it is taken out for that."""

QUIET_LOOKS = 3
"""Looks in a row at which a worker must be idle."""

TAKEN_OUT = "taken out by a change"

Action = Callable[["Live", Step, float], Awaitable[None]]


async def hold(live: Live, step: Step, limit_s: float) -> None:
    """Out of the gateway, and wait until it has nothing left there."""
    worker = _as_it_runs(live, step)
    await live.hold(worker.name, TAKEN_OUT)
    await live.wait_gone(worker, limit_s)
    if _runs(live, worker.name):
        await end_orphans(live, worker)


async def idle(live: Live, step: Step, limit_s: float) -> None:
    """No request is left on the worker; one that is dead has none."""
    quiet = 0
    deadline = time.monotonic() + limit_s
    while quiet < QUIET_LOOKS and _runs(live, step.process.name):
        what = (await load(live.client, _as_it_runs(live, step))).busy
        quiet = 0 if what else quiet + 1
        if what and time.monotonic() > deadline:
            raise ClusterError(
                f"is not idle after {limit_s:.0f} s: {what}.", where=step.process.name,
                remedy="Wait for its longest request, or give more time with --timeout.",
            )  # fmt: skip
        await asyncio.sleep(POLL_S)


async def drain(live: Live, step: Step, limit_s: float) -> None:
    """All requests are done, and all that was to be written is in L3; L1 and L2 are empty then.

    SGLang flushes only when nothing runs, but on decode it does not wait for writes to L3 (sglang
    0.5.23 ``managers/scheduler.py``, ``is_fully_idle``). They are written in order, so those of a
    request of our own are the last ones. Where none can be sent or written nobody waits, and an
    event says so.
    """
    worker = live.process(step.process.name)
    if worker is None or not _runs(live, worker.name):
        return
    await admin.flush(live.client, worker, limit_s=limit_s)
    role = Role.DECODE if worker.role is Role.PREFILL else Role.PREFILL
    others = [own for own in live.serving(role) if has_storage(own) or role is Role.DECODE]
    if not has_storage(worker):
        return
    ill = await healthy(live.client, live.plan.store)
    if ill is not None or not others:
        nobody = f"no {role} worker serves for a last request"
        why = nobody if ill is None else f"the store is ill ({ill})"
        live.events.add(worker.name, "drained", f"drained without waiting for L3: {why}")
        return
    pair = (worker, others[0]) if worker.role is Role.PREFILL else (others[0], worker)
    deadline = time.monotonic() + limit_s
    async with live.new_client(limit_s) as client:
        while missing := await unwritten(Bench(live.plan, client), *pair):
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{missing} pages did not reach L3 within {limit_s:.0f} s.", where=worker.name,
                    remedy="Look at the store (`pdcache status`), or lose them: `pdcache change "
                    "--rollback`, then `pdcache storage detach`.",
                )  # fmt: skip


async def detach(live: Live, step: Step, limit_s: float) -> None:
    """Take L3 away from a prefill worker; it goes on with L1 and L2."""
    worker = _as_it_runs(live, step)
    await storage.detach(live.client, worker, limit_s=limit_s)
    # Not yet what it will be: options that come with an attach are not in force before it.
    define(live, detached(worker))


async def attach(live: Live, step: Step, limit_s: float) -> None:
    """Give L3 to a prefill worker that has none.

    The store's own health comes first: SGLang freezes for 90 to 603 s on a bad one.
    """
    await live.wait_store()
    await storage.attach(live.client, step.process, _settings(step.process), limit_s=limit_s)
    define(live, step.process)


async def policies(live: Live, step: Step, limit_s: float) -> None:
    """Change the prefetch and write policies of a worker that stays attached.

    SGLang does it while nothing runs there: a worker that is not idle by itself soon is taken out
    for a moment, if there is another one.
    """
    worker = step.process
    others = [own for own in live.serving(worker.role) if own.name != worker.name]
    soon_s = min(limit_s, QUIET_LIMIT_S) if others else limit_s
    try:
        await storage.attach(live.client, worker, _settings(worker), limit_s=soon_s)
    except ClusterError:
        if not others:
            raise
        await hold(live, step, limit_s)
        await idle(live, step, limit_s)
        await storage.attach(live.client, worker, _settings(worker), limit_s=limit_s)
    define(live, worker)
    # By this try, or by one before it that failed or whose controller died.
    if live.desired.held.get(worker.name) == TAKEN_OUT:
        await release(live, step, limit_s)


async def stop(live: Live, step: Step, limit_s: float) -> None:
    """End its processes; nobody starts them again but a change."""
    names = [own.name for own in step.processes]
    live.desired.stopped = [*dict.fromkeys([*live.desired.stopped, *names])]
    live.save()
    running = [own for name in names if (own := live.process(name)) is not None]
    await asyncio.gather(*(live.fleet.remove(process, forget=False) for process in running))
    live.events.add(step.process.name, "stopped", "by a change", "")


async def enter(live: Live, step: Step, limit_s: float) -> None:
    """A new server becomes a part of the cluster; the gateway does not get it yet."""
    names = [own.name for own in step.processes]
    live.desired.held[step.process.name] = "not proved yet"
    live.desired.stopped = [*dict.fromkeys([*live.desired.stopped, *names])]
    for process in step.processes:
        define(live, process)
        live.status(process.name).state = ProcessState.STOPPED
    live.save()


async def start(live: Live, step: Step, limit_s: float) -> None:
    """Start its processes as the new plan has them, all at once: they wait for each other."""
    for process in step.processes:
        define(live, process)
    waiting = [own for own in step.processes if not live.fleet.is_healthy(own)]
    starts = asyncio.gather(*(live.start(own) for own in waiting), return_exceptions=True)
    try:
        for failure in [one for one in await starts if isinstance(one, BaseException)]:
            raise failure
    except BaseException:  # The time of the step may be over, too.
        # Left to the change: the watch would start them again and again.
        await asyncio.gather(*(live.fleet.remove(own, forget=False) for own in step.processes))
        raise
    names = {own.name for own in step.processes}
    live.desired.stopped = [other for other in live.desired.stopped if other not in names]
    live.save()


async def prove(live: Live, step: Step, limit_s: float) -> None:
    """Requests and reuse on the worker, before the gateway has it."""
    async with live.new_client(limit_s) as client:
        await prove_again(live, step.process, client, _goal(live))


async def release(live: Live, step: Step, limit_s: float) -> None:
    """Back into the gateway."""
    await live.release(step.process.name)
    await live.wait_registered([step.process], limit_s)


async def remove(live: Live, step: Step, limit_s: float) -> None:
    """End the process; it is no longer a part of the cluster."""
    await asyncio.gather(*(live.fleet.remove(own, forget=True) for own in step.processes))
    own, names = live.desired, {process.name for process in step.processes}
    own.plan = replace(
        own.plan, processes=tuple(p for p in own.plan.processes if p.name not in names)
    )
    own.held.pop(step.process.name, None)
    own.stopped = [other for other in own.stopped if other not in names]
    live.events.add(step.process.name, "removed", "by a change", "")
    live.save()


async def told(live: Live, step: Step, limit_s: float) -> None:
    """How a server that does not run is started the next time."""
    for process in step.processes:
        define(live, process)


async def replace_gateway(live: Live, step: Step, limit_s: float) -> None:
    """A new gateway in place of the old one; between them connections are refused."""
    await live.fleet.remove(step.process, forget=False)
    define(live, step.process)
    await live.publish()
    await live.start(step.process)
    workers = [*live.serving(Role.PREFILL), *live.serving(Role.DECODE)]
    await live.wait_registered(workers, limit_s)


ACTIONS: dict[str, Action] = {
    "hold": hold, "idle": idle, "drain": drain, "detach": detach, "attach": attach,
    "policies": policies, "stop": stop, "enter": enter, "start": start, "prove": prove,
    "release": release, "remove": remove, "replace": replace_gateway, DEFINE: told,
}  # fmt: skip


def define(live: Live, process: Process) -> None:
    """From now on this is how the process is started, whoever starts it."""
    live.desired.plan = with_process(live.desired.plan, process)
    live.fleet.know(process)
    live.save()


def with_process(plan: Plan, process: Process) -> Plan:
    """The plan with a process in place of the one of its name, or before the gateway."""
    rows = list(plan.processes)
    at = next((i for i, own in enumerate(rows) if own.name == process.name), None)
    if at is None:
        at = next(i for i, own in enumerate(rows) if own.role is Role.GATEWAY)
        rows.insert(at, process)
    else:
        rows[at] = process
    return replace(plan, processes=tuple(rows))


def _goal(live: Live) -> Plan:
    """The plan that the running change leads to."""
    change = live.desired.change
    assert change is not None
    return change.before[0] if change.rolling_back else change.plan


def _settings(worker: Process) -> storage.Settings:
    assert has_storage(worker), worker.name
    own = flags(worker)
    return storage.Settings(own[BACKEND], own[OPTIONS], own.get(PREFETCH), own.get(WRITE))


def _as_it_runs(live: Live, step: Step) -> Process:
    """The step's process as it is: what it will be may have other flags, and another address."""
    return live.process(step.process.name) or step.process


def _runs(live: Live, name: str) -> bool:
    own = live.fleet.statuses.get(name)
    return own is not None and own.state in (ProcessState.HEALTHY, ProcessState.UNHEALTHY)
