"""Looks after every process of a cluster: out of the gateway when it fails, back when proved."""

from __future__ import annotations

import asyncio
import contextlib
import time

from pdcache.cluster.fleet import ActorGone
from pdcache.cluster.live import Live
from pdcache.cluster.process_actor import Vitals
from pdcache.cluster.readmission import prove_again
from pdcache.cluster.states import ProcessState, ProcessStatus
from pdcache.errors import ClusterError, PdcacheError
from pdcache.plan.process import Process
from pdcache.topology.schema import WORKER_ROLES, Role

LOOK_S = 0.5
PROBE_EVERY_S = 1.0
QUIET_S = 10.0
"""How long the actor of a process that is well is waited for: it answers once that changes."""

UNHEALTHY_AFTER = 8
"""Looks in a row without an answer. A busy worker on a CPU answers late without being ill."""

HUNG_AFTER_S = 45.0
"""How long a process may be frozen, or answer nothing, before it is ended and started again."""

FROZEN_PREFILL_S = 1.5
FROZEN_DECODE_S = 20.0
READMISSION_LIMIT_S = 60.0
BACKOFF_S = (0.0, 2.0, 5.0, 15.0, 30.0)
"""Before each start in a row; the last one leaves a minute of 90 s for the start and its proof."""

CRASH_LOOP_S = 30.0
"""A process that was healthy for so long is in no crash loop when it dies."""

PROOF_TRIES_S = 30.0
"""How long a new incarnation may take to prove itself: its partners notice it one by one."""

LOG_LINES = 12


class Watch:
    """One process of a cluster, looked after until it is no longer a part of it."""

    def __init__(self, live: Live, name: str) -> None:
        self._live = live
        self._name = name
        self._quiet = False
        self._ill_since: float | None = None
        self._deaths = 0
        self._healthy_at: float | None = None

    @property
    def _own(self) -> ProcessStatus:
        return self._live.status(self._name)

    async def run(self) -> None:
        """Look after the process for as long as it is in the plan."""
        while (process := self._live.process(self._name)) is not None:
            state = self._own.state
            if state is ProcessState.DEAD:
                await self._recreate(process)
            elif state in (ProcessState.HEALTHY, ProcessState.UNHEALTHY):
                await self._look(process)
                continue
            await asyncio.sleep(LOOK_S)

    async def _look(self, process: Process) -> None:
        """One look: does it run, is it frozen, does it answer."""
        well = self._quiet and self._own.state is ProcessState.HEALTHY
        self._quiet = False
        try:
            vitals = await self._live.fleet.changed(process, QUIET_S if well else PROBE_EVERY_S)
        except ActorGone as error:
            if self._may_judge(process):
                await self._died(process, error.message)
            return
        except ClusterError as error:
            if self._may_judge(process):
                await self._unwell(process, error.message)
            return
        if not self._may_judge(process):
            return
        if not vitals.running:
            await self._died(process, f"ended with exit code {vitals.exit_code}")
        elif vitals.tree.torn:
            await self._died(process, "lost its scheduler or detokenizer", end=True)
        elif vitals.tree.frozen:
            await self._unwell(
                process, "is stopped (SIGSTOP or a frozen cgroup)", self._frozen_limit_s(process)
            )
            await asyncio.sleep(LOOK_S)
        else:
            await self._heard(process, vitals)

    def _may_judge(self, process: Process) -> bool:
        """A change may have taken the process out of our hands while we waited."""
        return (
            self._live.process(self._name) is process
            and self._name in self._live.fleet.statuses
            and self._own.state in (ProcessState.HEALTHY, ProcessState.UNHEALTHY)
        )

    async def _heard(self, process: Process, vitals: Vitals) -> None:
        """It runs: does it answer."""
        silence = vitals.silence
        if silence.missing is None:
            self._quiet = True
            if self._own.state is ProcessState.UNHEALTHY:
                await self._well_again(process)
        elif (
            silence.looks >= UNHEALTHY_AFTER
            or silence.refuses
            or self._own.state is ProcessState.UNHEALTHY
        ):
            await self._unwell(process, silence.missing)

    def _frozen_limit_s(self, process: Process) -> float:
        """How long a frozen process is waited for.

        What waits for a dead prefill is sent to another one by the gateway, and what waits for a
        frozen one is not: so it is ended soon while others serve. A decode has streams to finish.
        """
        others = [own for own in self._live.serving(process.role) if own.name != self._name]
        limits = {Role.PREFILL: FROZEN_PREFILL_S, Role.DECODE: FROZEN_DECODE_S}
        return limits.get(process.role, HUNG_AFTER_S) if others else HUNG_AFTER_S

    async def _unwell(self, process: Process, why: str, limit_s: float = HUNG_AFTER_S) -> None:
        """Out of the gateway; after a while it is ended, and so started again."""
        own, now = self._own, time.monotonic()
        if own.state is ProcessState.HEALTHY or self._ill_since is None:
            self._ill_since = now
        if own.state is ProcessState.HEALTHY:
            self._live.events.add(self._name, "unhealthy", why, "out of the gateway")
        own.state, own.reason = ProcessState.UNHEALTHY, why
        await self._publish()
        if now - self._ill_since > limit_s:
            text = f"{why} for {now - self._ill_since:.0f} s"
            self._live.events.add(self._name, "hung", text, "ended, to be started again")
            await self._live.fleet.end(process, text, at_once=True)
            await self._end_siblings(process)

    async def _well_again(self, process: Process) -> None:
        """It answers again: back into the gateway once it has proved that it reuses."""
        try:
            await self._prove(process)
        except PdcacheError as error:
            if self._may_judge(process):
                await self._unwell(process, error.message)
                await asyncio.sleep(PROBE_EVERY_S)
            return
        if not self._may_judge(process):
            return
        self._live.events.add(self._name, "recovered", "answers, and proved")
        self._own.state, self._own.reason = ProcessState.HEALTHY, None
        self._ill_since = None
        self._live.save()
        await self._publish()

    async def _died(self, process: Process, why: str, *, end: bool = False) -> None:
        """Out of the gateway at once; with ``end`` what is left of it is ended first."""
        own = self._own
        if end:
            own.state = ProcessState.UNHEALTHY
            await self._publish()
            await self._live.fleet.end(process, why, at_once=True)
        own.state, own.reason = ProcessState.DEAD, why
        await self._publish()
        own.log_tail = await self._live.fleet.log_tail(process, LOG_LINES) or None
        self._live.events.add(self._name, "died", why, "out of the gateway; started again")
        await self._end_siblings(process)

    async def _end_siblings(self, process: Process) -> None:
        """A server that lost one of its nodes cannot go on: its other parts end too."""
        for other in self._live.plan.processes:
            if other.server == process.server and other.name != process.name:
                await self._live.fleet.end(other, "ended with another part of its server")

    async def _recreate(self, process: Process) -> None:
        """Start a new incarnation, later each time while it keeps dying, and prove it."""
        own, now = self._own, time.monotonic()
        if process.role in WORKER_ROLES:
            try:
                await self._live.wait_store()
            except PdcacheError as error:
                own.reason = error.message
                return
        if self._healthy_at is not None and now - self._healthy_at > CRASH_LOOP_S:
            self._deaths = 0
        self._healthy_at = None
        backoff = BACKOFF_S[min(self._deaths, len(BACKOFF_S) - 1)]
        self._deaths += 1
        await asyncio.sleep(max(backoff, process.restart_after_s))
        if own.state is not ProcessState.DEAD or self._live.process(self._name) is not process:
            return
        own.restarts += 1
        try:
            await self._live.fleet.start_and_wait(
                process, self._live.client, before_admission=lambda: self._prove_soon(process)
            )
        except PdcacheError as error:
            if own.state is not ProcessState.DEAD:
                return  # A change stopped it meanwhile.
            again = BACKOFF_S[min(self._deaths, len(BACKOFF_S) - 1)]
            own.reason = error.message
            own.log_tail = error.log_tail or own.log_tail
            did = f"start {self._deaths} in a row failed; again in {again:.0f} s"
            self._live.events.add(self._name, "failed", error.message, did)
            return
        self._ill_since, self._healthy_at = None, time.monotonic()
        text = f"healthy and proved after {own.started_in_s} s as pid {own.pid}"
        self._live.events.add(self._name, "restarted", text, "")
        self._live.save()
        await self._publish()

    async def _prove_soon(self, process: Process) -> None:
        """Try for a while: another start costs more than another try."""
        deadline = time.monotonic() + PROOF_TRIES_S
        while True:
            try:
                await self._prove(process)
                return
            except PdcacheError:
                own = self._own
                if time.monotonic() > deadline or own.state is not ProcessState.STARTING:
                    raise
            await asyncio.sleep(PROBE_EVERY_S)

    async def _prove(self, process: Process) -> None:
        if process.rank or process.role not in WORKER_ROLES:
            return
        async with self._live.new_client(READMISSION_LIMIT_S) as client:
            await prove_again(self._live, process, client)

    async def _publish(self) -> None:
        # Whoever looks after the gateway notices when its actor is gone; we are asked again.
        with contextlib.suppress(PdcacheError):
            await self._live.publish()


async def watch(live: Live) -> None:
    """Look after every process of the plan, those that changes add included."""
    tasks: dict[str, asyncio.Task[None]] = {}
    try:
        while True:
            for process in live.plan.processes:
                task = tasks.get(process.name)
                if task is not None and task.done():
                    _tell_defect(live, process.name, task)
                if task is None or task.done():
                    tasks[process.name] = asyncio.create_task(Watch(live, process.name).run())
            with contextlib.suppress(PdcacheError):
                await live.publish()
            await asyncio.sleep(LOOK_S)
    finally:
        for task in tasks.values():
            task.cancel()


def _tell_defect(live: Live, name: str, task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        text = f"the watch of {name} failed: {type(error).__name__}: {error}"
        live.events.add("controller", "defect", text, "begun anew")
