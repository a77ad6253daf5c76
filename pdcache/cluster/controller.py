"""The controller: a detached actor that holds the desired state and brings the cluster to it.

Every method is idempotent. The desired state is in Ray's GCS, so a controller that was killed comes
back, finds its process actors by name, and goes on; the processes serve all the while.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import time
from typing import Any

import httpx

from pdcache.cluster.fleet import Fleet
from pdcache.cluster.manifest import manifest_text, registered
from pdcache.cluster.states import ClusterState, ClusterStatus, ProcessState
from pdcache.errors import ClusterError, PdcacheError
from pdcache.plan.process import Plan, Process
from pdcache.store.mooncake_http import healthy
from pdcache.topology.schema import Role

CONTROLLER = "controller"
LOOP_S = 1.0
BACKOFF_S = (0.0, 2.0, 5.0, 15.0, 30.0, 60.0)


class Controller:
    """Brings up a plan, watches it, recreates what dies."""

    def __init__(self, cluster: str, cluster_id: str) -> None:
        self._fleet = Fleet(cluster, cluster_id)
        self._cluster = cluster
        self._plan: Plan | None = None
        self._state = ClusterState.STARTING
        self._reasons: list[str] = []
        self._failed: str | None = None
        self._proved = False
        self._serving = False
        self._manifest = ""
        self._task: asyncio.Task[None] | None = None
        self._client = httpx.AsyncClient(timeout=5.0, trust_env=False)

    async def resume(self) -> int:
        """Take up the desired state that an earlier incarnation left; returns this pid."""
        saved = _kv_get(self._cluster)
        if saved is not None and self._task is None:
            desired = pickle.loads(saved)
            self._plan, self._proved = desired["plan"], desired["proved"]
            self._fleet.expect(self._plan)
            await self._fleet.adopt()
            self._serving = True
            self._state = ClusterState.UP if self._proved else ClusterState.STARTING
            self._task = asyncio.create_task(self._watch())
        return os.getpid()

    async def deploy(self, plan: Plan) -> None:
        """Start bringing up a plan; `status` tells how far it is."""
        if self._task is not None:
            return
        self._plan = plan
        self._fleet.expect(plan)
        self._save()
        self._task = asyncio.create_task(self._bring_up())

    async def status(self) -> ClusterStatus:
        """How the cluster is doing at this moment."""
        if self._plan is None:
            await self.resume()
        return ClusterStatus(
            name=self._cluster,
            state=self._state,
            endpoint=self._plan.endpoint if self._plan else None,
            workers=list(self._fleet.statuses.values()),
            reasons=list(self._reasons),
            failed=self._failed,
            serving=self._serving,
        )

    async def plan(self) -> Plan | None:
        """The plan that is run."""
        if self._plan is None:
            await self.resume()
        return self._plan

    async def mark_proved(self, proved: bool, reasons: list[str]) -> None:
        """Take the result of a proof: UP, or DEGRADED with the reasons."""
        self._proved = proved
        self._state = ClusterState.UP if proved else ClusterState.DEGRADED
        self._reasons = reasons
        self._save()

    async def stop(self) -> list[str]:
        """End every process, gateway first; returns the names that would not end."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._state = ClusterState.DOWN
        _kv_del(self._cluster)
        return await self._fleet.stop_all()

    def _save(self) -> None:
        _kv_put(self._cluster, pickle.dumps({"plan": self._plan, "proved": self._proved}))

    async def _bring_up(self) -> None:
        plan = self._plan
        assert plan is not None
        try:
            for wave in sorted({process.wave for process in plan.processes}):
                if wave == min(worker.wave for worker in _workers(plan)):
                    await self._wait_store(plan)
                await self._start_wave(plan, wave)
            await self._wait_registered(plan)
        except PdcacheError as error:
            self._failed = str(error)
            self._reasons = [str(error), *filter(None, [error.log_tail])]
            self._state = ClusterState.FAILED
            return
        await self._watch()

    async def _wait_store(self, plan: Plan) -> None:
        """The store answers before any worker is pointed at it: SGLang freezes on a bad one."""
        if plan.store_url is None:
            return
        deadline = time.monotonic() + plan.timeouts["store_s"]
        while (ill := await healthy(self._client, plan.store_url)) is not None:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the store's master did not answer within {plan.timeouts['store_s']:.0f} s "
                    f"({ill}).",
                    where="store.master",
                    remedy="Start it, or correct store.master and store.metrics_port; no worker "
                    "was pointed at it.",
                )
            await asyncio.sleep(0.2)

    async def _start_wave(self, plan: Plan, wave: int) -> None:
        """Start the processes of a wave in parallel; the first failure is raised at once."""
        members = [process for process in plan.processes if process.wave == wave]
        if any(process.role is Role.GATEWAY for process in members):
            await self._write_manifest(plan)
        starts = [
            asyncio.create_task(self._fleet.start_and_wait(process, self._client))
            for process in members
        ]
        try:
            await asyncio.gather(*starts)
        finally:
            for start in starts:
                start.cancel()

    async def _wait_registered(self, plan: Plan) -> None:
        """The gateway has taken every worker of the manifest."""
        gateway = plan.role(Role.GATEWAY)[0]
        wanted = {process.url for process in _workers(plan)}
        deadline = time.monotonic() + gateway.start_s
        while missing := wanted - await registered(gateway, self._client):
            if time.monotonic() > deadline:
                raise await self._fleet.failure(
                    gateway, f"did not register {', '.join(map(str, sorted(missing, key=str)))} "
                    f"within {gateway.start_s:.0f} s"
                )  # fmt: skip
            await asyncio.sleep(0.2)
        self._serving = True

    async def _watch(self) -> None:
        plan = self._plan
        assert plan is not None
        restarting: dict[str, asyncio.Task[None]] = {}
        while True:
            checks = [self._fleet.check(process, self._client) for process in plan.processes]
            await asyncio.gather(*checks)
            for process in plan.processes:
                own = self._fleet.statuses[process.name]
                task = restarting.get(process.name)
                if own.state is ProcessState.DEAD and (task is None or task.done()):
                    restarting[process.name] = asyncio.create_task(self._recreate(process))
            with contextlib.suppress(PdcacheError):
                await self._write_manifest(plan)
            self._judge()
            await asyncio.sleep(LOOP_S)

    async def _recreate(self, process: Process) -> None:
        """Start a new incarnation, later each time while it keeps dying."""
        own = self._fleet.statuses[process.name]
        await asyncio.sleep(BACKOFF_S[min(own.restarts, len(BACKOFF_S) - 1)])
        own.restarts += 1
        try:
            await self._fleet.start_and_wait(process, self._client)
        except PdcacheError as error:
            own.state, own.reason = ProcessState.DEAD, str(error)

    async def _write_manifest(self, plan: Plan) -> None:
        text = manifest_text(plan, self._fleet.statuses)
        if text != self._manifest:
            await self._fleet.write_file(plan.role(Role.GATEWAY)[0], plan.manifest, text)
            self._manifest = text

    def _judge(self) -> None:
        """UP needs the proof and every process healthy."""
        ill = [
            own for own in self._fleet.statuses.values() if own.state is not ProcessState.HEALTHY
        ]
        if not self._proved:
            return
        self._state = ClusterState.DEGRADED if ill else ClusterState.UP
        self._reasons = [f"{own.name} is {own.state}: {own.reason or 'recovering'}" for own in ill]


def _workers(plan: Plan) -> list[Process]:
    return [*plan.role(Role.PREFILL), *plan.role(Role.DECODE)]


def _kv() -> Any:
    from ray.experimental import internal_kv

    return internal_kv


def _key(cluster: str) -> bytes:
    return f"pdcache:{cluster}:desired".encode()


def _kv_get(cluster: str) -> bytes | None:
    value: bytes | None = _kv()._internal_kv_get(_key(cluster))
    return value


def _kv_put(cluster: str, value: bytes) -> None:
    _kv()._internal_kv_put(_key(cluster), value, overwrite=True)


def _kv_del(cluster: str) -> None:
    _kv()._internal_kv_del(_key(cluster))
