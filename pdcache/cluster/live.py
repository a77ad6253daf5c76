"""The cluster at this moment: what the controller, the watch and changes work on together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import httpx

from pdcache.cluster.connections import PoolPerServer
from pdcache.cluster.desired import Desired
from pdcache.cluster.events import Events
from pdcache.cluster.fleet import Fleet
from pdcache.cluster.manifest import listed, manifest_text
from pdcache.cluster.states import ProcessState, ProcessStatus
from pdcache.errors import ClusterError, PdcacheError
from pdcache.plan.process import Plan, Process
from pdcache.sglang.idle import Load
from pdcache.sglang.keys import ClusterAuth
from pdcache.store.health import healthy
from pdcache.topology.schema import WORKER_ROLES, Role

POLL_S = 0.2
PROBE_LIMIT_S = 5.0
GATEWAY_REMOVAL_S = 5.7


class Live:
    """Desired state, processes, and the reasons why the cluster is not as it should be.

    Attributes:
        reasons: what is wrong, by a key of whoever noticed it.
        loads: what each worker had to do when `watch_loads` last asked.
    """

    def __init__(
        self,
        cluster: str,
        desired: Desired,
        fleet: Fleet,
        events: Events,
    ) -> None:
        self.cluster = cluster
        self.desired = desired
        self.fleet = fleet
        self.client = self.new_client(PROBE_LIMIT_S)
        self.events = events
        self.reasons: dict[str, str] = {}
        self.loads: dict[str, Load] = {}
        self._manifest = ""
        self._held_at: dict[str, float] = {}
        self._began_at = time.monotonic()
        self._publishing = asyncio.Lock()

    def new_client(self, limit_s: float) -> httpx.AsyncClient:
        """An HTTP client that gives every process of the cluster the key it wants."""
        auth = ClusterAuth(lambda: self.plan, self.desired.keys)
        return httpx.AsyncClient(
            timeout=limit_s, trust_env=False, auth=auth, transport=PoolPerServer()
        )

    @property
    def plan(self) -> Plan:
        """The plan as it is now; changes replace it."""
        return self.desired.plan

    def process(self, name: str) -> Process | None:
        """A process of the plan as it is now, or None when it was removed."""
        return next((own for own in self.plan.processes if own.name == name), None)

    def status(self, name: str) -> ProcessStatus:
        """How a process is doing."""
        return self.fleet.statuses[name]

    def serving(self, role: Role) -> list[Process]:
        """Workers of a role that are healthy and get requests from the gateway."""
        return [
            process
            for process in self.plan.role(role)
            if self.fleet.is_healthy(process) and process.name not in self.desired.held
        ]

    def save(self) -> None:
        """Keep the desired state where the next controller finds it."""
        starts = {name: own.incarnation for name, own in self.fleet.statuses.items()}
        self.desired.incarnations = starts
        self.desired.admitted = {
            name: own.incarnation
            for name, own in self.fleet.statuses.items()
            if own.state is ProcessState.HEALTHY
        }
        self.desired.save(self.cluster)

    def degrade(self, key: str, text: str, did: str = "") -> None:
        """Something is wrong; said once, until `heal` is called for the same key."""
        if key not in self.reasons:
            self.events.add(key, "degraded", text, did)
        self.reasons[key] = text

    def heal(self, key: str, text: str) -> None:
        """What was wrong under a key is right again."""
        if self.reasons.pop(key, None) is not None:
            self.events.add(key, "healed", text)

    async def hold(self, name: str, why: str) -> None:
        """Keep a worker out of the gateway, whatever its health, until `release`."""
        if self.desired.held.get(name) != why:
            self.desired.held[name] = why
            self._held_at[name] = time.monotonic()
            self.save()
        await self.publish()

    async def release(self, name: str) -> None:
        """Let the gateway have a worker again once it is healthy.

        Not before smg 1.13 has done with its removal: 5.2 s after it, it would remove the address
        again. Who holds it for another reason meanwhile keeps it.
        """
        why = self.desired.held.get(name)
        if why is not None:
            # One that a controller before us took out was out when we began, or since then.
            out_s = time.monotonic() - self._held_at.get(name, self._began_at)
            await asyncio.sleep(max(0.0, GATEWAY_REMOVAL_S - out_s))
            if self.desired.held.get(name) == why:
                del self.desired.held[name]
                self._held_at.pop(name, None)
                self.save()
        await self.publish()

    async def publish(self) -> None:
        """Tell the gateway which workers there are, if that is not what it knows.

        Raises:
            ClusterError: the gateway's actor does not answer.
        """
        async with self._publishing:
            text = manifest_text(self.plan, self.fleet.statuses, self.desired.held)
            if text != self._manifest:
                gateway = self.plan.role(Role.GATEWAY)[0]
                await self.fleet.write_file(gateway, self.plan.manifest, text)
                self._manifest = text

    async def wait_registered(self, workers: Iterable[Process], limit_s: float) -> None:
        """The gateway has taken these workers.

        Raises:
            ClusterError: not within the limit.
        """
        gateway = self.plan.role(Role.GATEWAY)[0]
        wanted = {process.url or "" for process in workers}
        deadline = time.monotonic() + limit_s
        while missing := wanted - await self._registered(gateway):
            if time.monotonic() > deadline:
                raise await self.fleet.failure(
                    gateway, f"did not register {', '.join(sorted(missing))} within {limit_s:.0f} s"
                )
            await asyncio.sleep(POLL_S)

    async def wait_gone(self, worker: Process, limit_s: float) -> None:
        """The gateway no longer sends to a worker, and what it had sent is answered.

        smg 1.13 keeps a removed worker listed while requests run on it.

        Raises:
            ClusterError: not within the limit.
        """
        gateway = self.plan.role(Role.GATEWAY)[0]
        deadline = time.monotonic() + limit_s
        while (known := await listed(gateway, self.client)) is None or worker.url in known:
            if time.monotonic() > deadline:
                what = "does not answer" if known is None else "still has requests on it"
                raise ClusterError(
                    f"the gateway {what} after {limit_s:.0f} s.",
                    where=worker.name,
                    remedy="Wait for its longest request, or give more time with --timeout.",
                )
            await asyncio.sleep(POLL_S)

    async def _registered(self, gateway: Process) -> set[str]:
        known = await listed(gateway, self.client) or {}
        return {url for url, healthy_there in known.items() if healthy_there}

    async def wait_store(self) -> None:
        """The store answers before any client is pointed at it: SGLang freezes on a bad one.

        Raises:
            ClusterError: it did not within ``timeouts.store_s``.
        """
        store, limit_s = self.plan.store, self.plan.timeouts["store_s"]
        deadline = time.monotonic() + limit_s
        while (ill := await healthy(self.client, store)) is not None:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the {store.backend} store did not answer within {limit_s:.0f} s ({ill}).",
                    where=store.where,
                    remedy=f"Start it, or correct {store.where}; no worker was pointed at it.",
                )
            await asyncio.sleep(POLL_S)

    def ill(self) -> list[str]:
        """What is wrong with processes that no change has taken out on purpose."""
        return [
            f"{own.name} is {own.state.value}: {own.reason or 'recovering'}"
            for own in self.fleet.statuses.values()
            if own.state not in (ProcessState.HEALTHY, ProcessState.STOPPED)
            and own.name not in self.desired.held
        ]

    async def start(self, process: Process) -> None:
        """Start a process, or wait for one that is starting; it is HEALTHY afterwards.

        Raises:
            PdcacheError: it did not become healthy.
        """
        if process.role in WORKER_ROLES:
            await self.wait_store()
        try:
            await self.fleet.start_and_wait(process, self.client)
        except PdcacheError as error:
            self.events.add(process.name, "failed", error.message)
            raise
        own = self.status(process.name)
        self.events.add(
            process.name, "started", f"healthy after {own.started_in_s} s as pid {own.pid}"
        )
        self.save()
