"""The controller: a detached actor that holds the desired state and brings the cluster to it.

Every method is idempotent. A controller that was killed comes back, loads the desired state, finds
its process actors by name, and goes on; the processes serve all the while.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

import httpx

from pdcache.cluster import desired
from pdcache.cluster.desired import Desired
from pdcache.cluster.fleet import Fleet
from pdcache.cluster.manifest import manifest_text, registered
from pdcache.cluster.readmission import prove_again
from pdcache.cluster.states import ClusterState, ClusterStatus, ProcessState
from pdcache.errors import ClusterError, PdcacheError
from pdcache.plan.process import Plan, Process
from pdcache.store.backend import STORE_CLIENT_WAVE
from pdcache.store.health import healthy
from pdcache.topology.schema import Role

CONTROLLER = "controller"
LOOP_S = 1.0
BACKOFF_S = (0.0, 2.0, 5.0, 15.0, 30.0, 60.0)
PROBE_LIMIT_S = 5.0
READMISSION_LIMIT_S = 60.0


class Controller:
    """Brings up a plan, watches it, recreates what dies."""

    def __init__(self, cluster: str, cluster_id: str) -> None:
        self._cluster = cluster
        self._fleet = Fleet(cluster, cluster_id)
        self._desired: Desired | None = None
        self._failure: PdcacheError | None = None
        self._stopped = False
        self._manifest = ""
        self._task: asyncio.Task[None] | None = None
        self._client = httpx.AsyncClient(timeout=PROBE_LIMIT_S, trust_env=False)

    async def resume(self) -> int:
        """Take up the desired state that an earlier incarnation left; returns this pid."""
        if self._desired is None and (saved := desired.load(self._cluster)) is not None:
            self._desired = saved
            self._fleet.expect(saved.plan, saved.incarnations)
            await self._fleet.adopt(serving=saved.serving)
            self._task = asyncio.create_task(self._run(saved))
        return os.getpid()

    async def deploy(self, plan: Plan) -> None:
        """Start bringing up a plan; `status` tells how far it is."""
        if self._desired is None:
            self._desired = Desired(plan)
            self._fleet.expect(plan, {})
            self._save()
            self._task = asyncio.create_task(self._run(self._desired))

    async def status(self) -> ClusterStatus:
        """How the cluster is doing at this moment."""
        await self.resume()
        own = self._desired
        return ClusterStatus(
            name=self._cluster,
            state=self._state(),
            endpoint=own.plan.endpoint if own else None,
            workers=list(self._fleet.statuses.values()),
            reasons=self._reasons(),
            failed=str(self._failure) if self._failure else None,
            serving=own.serving if own else False,
        )

    async def plan(self) -> Plan | None:
        """The plan that is run."""
        await self.resume()
        return self._desired.plan if self._desired else None

    async def mark_proved(self, proved: bool, reasons: list[str]) -> None:
        """Take the result of a proof: UP, or DEGRADED with the reasons."""
        await self.resume()
        if self._desired is not None:
            self._desired.proved, self._desired.doubts = proved, reasons
            self._save()

    async def stop(self) -> list[str]:
        """End every process; returns the names that would not end."""
        await self.resume()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._stopped = True
        desired.forget(self._cluster)
        return await self._fleet.stop_all()

    def _state(self) -> ClusterState:
        own = self._desired
        if self._stopped:
            return ClusterState.DOWN
        if self._failure is not None:
            return ClusterState.FAILED
        if own is None or own.proved is None:
            return ClusterState.STARTING
        return ClusterState.UP if own.proved and not self._ill() else ClusterState.DEGRADED

    def _reasons(self) -> list[str]:
        if self._failure is not None:
            return [str(self._failure), *filter(None, [self._failure.log_tail])]
        own = self._desired
        if own is None or own.proved is None:
            return []
        return [*own.doubts, *self._ill()]

    def _ill(self) -> list[str]:
        return [
            f"{own.name} is {own.state.value}: {own.reason or 'recovering'}"
            for own in self._fleet.statuses.values()
            if own.state is not ProcessState.HEALTHY
        ]

    def _save(self) -> None:
        if self._desired is not None:
            starts = {name: own.incarnation for name, own in self._fleet.statuses.items()}
            self._desired.incarnations = starts
            self._desired.save(self._cluster)

    async def _run(self, own: Desired) -> None:
        if not own.serving:
            try:
                await self._bring_up(own.plan)
            except PdcacheError as error:
                self._failure = error
                return
            own.serving = True
            self._save()
        await self._watch(own.plan)

    async def _bring_up(self, plan: Plan) -> None:
        """Start wave by wave; processes that an earlier controller started are waited for only.

        Raises:
            ClusterError: a process failed, or the store or the gateway did not answer.
        """
        for wave in sorted({process.wave for process in plan.processes}):
            members = [process for process in plan.processes if process.wave == wave]
            if wave >= STORE_CLIENT_WAVE:
                await self._wait_store(plan)
            if any(process.role is Role.GATEWAY for process in members):
                await self._write_manifest(plan)
            starts = [
                asyncio.create_task(self._fleet.start_and_wait(process, self._client))
                for process in members
                if self._fleet.statuses[process.name].state is not ProcessState.HEALTHY
            ]
            try:
                await asyncio.gather(*starts)
            finally:
                for start in starts:
                    start.cancel()
            self._save()
        await self._wait_registered(plan)

    async def _wait_store(self, plan: Plan) -> None:
        """The store answers before any client is pointed at it: SGLang freezes on a bad one."""
        deadline = time.monotonic() + plan.timeouts["store_s"]
        while (ill := await healthy(self._client, plan.store)) is not None:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the {plan.store.backend} store did not answer within "
                    f"{plan.timeouts['store_s']:.0f} s ({ill}).",
                    where=plan.store.where,
                    remedy=f"Start it, or correct {plan.store.where}; no worker was pointed at it.",
                )
            await asyncio.sleep(0.2)

    async def _wait_registered(self, plan: Plan) -> None:
        """The gateway has taken every worker of the manifest."""
        gateway = plan.role(Role.GATEWAY)[0]
        wanted = {process.url or "" for process in _workers(plan)}
        deadline = time.monotonic() + gateway.start_s
        while missing := wanted - await registered(gateway, self._client):
            if time.monotonic() > deadline:
                raise await self._fleet.failure(
                    gateway,
                    f"did not register {', '.join(sorted(missing))} within {gateway.start_s:.0f} s",
                )
            await asyncio.sleep(0.2)

    async def _watch(self, plan: Plan) -> None:
        recreating: dict[str, asyncio.Task[None]] = {}
        while True:
            checks = [self._fleet.check(process, self._client) for process in plan.processes]
            await asyncio.gather(*checks)
            await self._stop_torn_servers(plan)
            for process in plan.processes:
                task = recreating.get(process.name)
                dead = self._fleet.statuses[process.name].state is ProcessState.DEAD
                if dead and (task is None or task.done()):
                    recreating[process.name] = asyncio.create_task(self._recreate(plan, process))
            with contextlib.suppress(PdcacheError):
                await self._write_manifest(plan)
            await asyncio.sleep(LOOP_S)

    async def _stop_torn_servers(self, plan: Plan) -> None:
        """A server that lost one of its nodes cannot go on: its other parts end too."""
        spanning = {process.server for process in plan.processes if process.rank}
        torn = {
            process.server
            for process in plan.processes
            if process.server in spanning
            and self._fleet.statuses[process.name].state is ProcessState.DEAD
        }
        for process in plan.processes:
            if process.server in torn:
                await self._fleet.end(process)

    async def _recreate(self, plan: Plan, process: Process) -> None:
        """Start a new incarnation, later each time while it keeps dying, and prove it."""
        own = self._fleet.statuses[process.name]
        backoff = BACKOFF_S[min(own.restarts, len(BACKOFF_S) - 1)]
        await asyncio.sleep(max(backoff, process.restart_after_s))
        own.restarts += 1

        async def prove() -> None:
            if process.rank:
                return
            async with httpx.AsyncClient(timeout=READMISSION_LIMIT_S, trust_env=False) as client:
                await prove_again(plan, process, self._fleet.is_healthy, client)

        try:
            await self._fleet.start_and_wait(process, self._client, before_admission=prove)
        except PdcacheError as error:
            own.state, own.reason = ProcessState.DEAD, str(error)
        self._save()

    async def _write_manifest(self, plan: Plan) -> None:
        text = manifest_text(plan, self._fleet.statuses)
        if text != self._manifest:
            await self._fleet.write_file(plan.role(Role.GATEWAY)[0], plan.manifest, text)
            self._manifest = text


def _workers(plan: Plan) -> list[Process]:
    return [*plan.role(Role.PREFILL), *plan.role(Role.DECODE)]
