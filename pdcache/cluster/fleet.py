"""The process actors of one cluster: create, find again, start, check, end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from pdcache.cluster.probe import alive, ready
from pdcache.cluster.process_actor import ProcessActor, Vitals
from pdcache.cluster.states import ProcessState, ProcessStatus
from pdcache.errors import ClusterError
from pdcache.plan.process import Plan, Process

PLACE_LIMIT_S = 60.0
CALL_LIMIT_S = 40.0
POLL_S = 0.25
UNHEALTHY_AFTER = 5


class Fleet:
    """Handles and statuses of the process actors, by process name."""

    def __init__(self, cluster: str, cluster_id: str) -> None:
        self._cluster = cluster
        self._id = cluster_id
        self._actors: dict[str, Any] = {}
        self._failures: dict[str, int] = {}
        self._temp = self._logs = ""
        self.statuses: dict[str, ProcessStatus] = {}

    def expect(self, plan: Plan, incarnations: dict[str, int]) -> None:
        """Know the processes of a plan and how often each was started before."""
        self._temp = plan.temp
        self._logs = str(Path(plan.manifest).parent / "logs")
        for process in plan.processes:
            self.statuses[process.name] = ProcessStatus(
                process.name,
                process.role.value,
                process.url,
                incarnation=incarnations.get(process.name, 0),
            )

    async def adopt(self, *, serving: bool) -> None:
        """Find the actors that are there already, with their processes.

        Processes of a cluster that served are looked at by the next `check`; those of one that was
        still starting are waited for by `start_and_wait`.
        """
        import ray

        for name, own in self.statuses.items():
            try:
                actor = ray.get_actor(name)
                vitals: Vitals = await asyncio.wait_for(actor.vitals.remote(), CALL_LIMIT_S)
            except (ValueError, ray.exceptions.RayError, TimeoutError):
                own.state = ProcessState.DEAD if own.incarnation else ProcessState.PENDING
                continue
            self._actors[name] = actor
            if vitals.incarnation:
                self._take(own, vitals)
                found = ProcessState.UNHEALTHY if serving else ProcessState.STARTING
                own.state = found if vitals.running else ProcessState.DEAD

    def is_healthy(self, process: Process) -> bool:
        """Whether a process was healthy when it was last looked at."""
        return self.statuses[process.name].state is ProcessState.HEALTHY

    async def start_and_wait(
        self,
        process: Process,
        client: httpx.AsyncClient,
        before_admission: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Start a new incarnation and wait until it is healthy; one that runs is waited for only.

        Args:
            before_admission: awaited between ready and HEALTHY; what it raises is a failed start.

        Raises:
            ClusterError: it died, or was not healthy in ``process.start_s``.
        """
        own = self.statuses[process.name]
        adopted = own.state is ProcessState.STARTING
        own.state, own.reason = ProcessState.STARTING, None
        begin = time.monotonic()
        try:
            actor = await self._actor(process)
            if not adopted:
                self._take(own, await self._call(actor.start.remote(own.incarnation + 1)))
            await self._wait_ready(process, client, begin)
            if before_admission is not None:
                await before_admission()
        except ClusterError as error:
            own.state, own.reason = ProcessState.DEAD, str(error)
            raise
        own.state, own.reason = ProcessState.HEALTHY, None
        own.started_in_s = round(time.monotonic() - begin, 2)
        self._failures[process.name] = 0

    async def _wait_ready(self, process: Process, client: httpx.AsyncClient, begin: float) -> None:
        own = self.statuses[process.name]
        while True:
            missing = own.reason = await ready(process, client)
            vitals: Vitals = await self._call(self._actors[process.name].vitals.remote())
            if not vitals.running:
                raise await self.failure(
                    process, f"ended with exit code {vitals.exit_code} during its start"
                )
            if time.monotonic() - begin > process.start_s:
                raise await self.failure(
                    process, f"was not healthy after {process.start_s:.0f} s ({missing})"
                )
            if missing is None:
                return
            await asyncio.sleep(POLL_S)

    async def check(self, process: Process, client: httpx.AsyncClient) -> None:
        """Look after a process that was healthy."""
        own = self.statuses[process.name]
        if own.state not in (ProcessState.HEALTHY, ProcessState.UNHEALTHY):
            return
        try:
            vitals: Vitals = await self._call(self._actors[process.name].vitals.remote())
        except ClusterError as error:
            if "timed out" not in str(error):
                self._actors.pop(process.name, None)
                own.state, own.reason = ProcessState.DEAD, str(error)
            return
        if not vitals.running:
            own.state = ProcessState.DEAD
            own.reason = f"ended with exit code {vitals.exit_code}"
            return
        missing = await alive(process, client)
        count = self._failures.get(process.name, 0) + 1 if missing else 0
        self._failures[process.name] = count
        if missing is None:
            own.state, own.reason = ProcessState.HEALTHY, None
        elif count >= UNHEALTHY_AFTER:
            own.state, own.reason = ProcessState.UNHEALTHY, missing

    async def end(self, process: Process) -> None:
        """End a process that runs; it is then DEAD and can be started again."""
        own = self.statuses[process.name]
        if own.state not in (ProcessState.HEALTHY, ProcessState.UNHEALTHY):
            return
        with contextlib.suppress(ClusterError):
            await self._call(self._actors[process.name].stop.remote())
        own.state, own.reason = ProcessState.DEAD, "ended with another part of its server"

    async def write_file(self, process: Process, path: str, text: str) -> None:
        """Write a file on the node of a process.

        Raises:
            ClusterError: its actor does not answer.
        """
        actor = await self._actor(process)
        await self._call(actor.write_file.remote(path, text))

    async def failure(self, process: Process, what: str) -> ClusterError:
        """An error on a process with the end of its log."""
        log = ""
        if process.name in self._actors:
            log = await self._call(self._actors[process.name].log_tail.remote(25))
        return ClusterError(
            f"{what}.", where=process.name, log_tail=log,
            remedy=f"Its log: pdcache logs {self._cluster} {process.name}",
        )  # fmt: skip

    async def stop_all(self) -> list[str]:
        """End all processes in parallel, then their actors; returns those that would not end."""
        import ray

        async def stop(name: str) -> bool:
            try:
                return bool(await self._call(self._actors[name].stop.remote()))
            except ClusterError:
                return True  # Its actor is gone, and so its process.

        names = list(self._actors)
        ended = await asyncio.gather(*(stop(name) for name in names))
        for name in names:
            ray.kill(self._actors.pop(name))
            self.statuses[name].state = ProcessState.STOPPED
        return [name for name, ok in zip(names, ended, strict=True) if not ok]

    async def _actor(self, process: Process) -> Any:
        """The living actor of a process, created when there is none."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if process.name in self._actors:
            return self._actors[process.name]
        options: dict[str, Any] = {
            "name": process.name, "lifetime": "detached", "max_restarts": 0,
            "num_cpus": 0, "num_gpus": process.gpus, "get_if_exists": True,
            "max_concurrency": 1,
        }  # fmt: skip
        if process.ray_id is not None:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(
                process.ray_id, soft=False
            )
        actor = (
            ray.remote(ProcessActor)
            .options(**options)
            .remote(self._id, process, self._logs, self._temp)
        )
        try:
            await asyncio.wait_for(actor.vitals.remote(), PLACE_LIMIT_S)
        except (TimeoutError, ray.exceptions.RayError) as error:
            reason = "no node has the resources" if isinstance(error, TimeoutError) else str(error)
            raise ClusterError(
                f"Ray did not place it within {PLACE_LIMIT_S:.0f} s: {reason}.",
                where=process.name,
                remedy=f"It asks for {process.gpus} GPUs on {process.address}; see `ray status`.",
            ) from None
        self._actors[process.name] = actor
        return actor

    async def _call(self, reference: Any) -> Any:
        """Await a call of an actor within a limit; a dead actor is a ClusterError."""
        import ray

        try:
            return await asyncio.wait_for(reference, CALL_LIMIT_S)
        except TimeoutError:
            raise ClusterError(
                f"a call to a process actor timed out ({CALL_LIMIT_S:.0f} s)."
            ) from None
        except ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise (cause if isinstance(cause, ClusterError) else ClusterError(str(error))) from None
        except ray.exceptions.RayError as error:
            raise ClusterError(f"its actor is gone: {str(error).splitlines()[0]}") from None

    @staticmethod
    def _take(own: ProcessStatus, vitals: Vitals) -> None:
        own.pid, own.supervisor_pid = vitals.pid, vitals.supervisor_pid
        own.actor_pid, own.incarnation = vitals.actor_pid, vitals.incarnation
