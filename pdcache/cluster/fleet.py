"""The process actors of one cluster: create, find again, start, check, end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Container, Mapping
from pathlib import Path
from typing import Any

import httpx

from pdcache.cluster.nodes import living_node
from pdcache.cluster.probe import ready
from pdcache.cluster.process_actor import ProcessActor, Vitals
from pdcache.cluster.pulse import NOT_ASKED, Silence
from pdcache.cluster.states import ProcessState, ProcessStatus
from pdcache.cluster.tree import TreeState
from pdcache.errors import ClusterError
from pdcache.plan.process import Plan, Process
from pdcache.sglang.keys import Keys

PLACE_LIMIT_S = 30.0
CALL_LIMIT_S = 40.0
POLL_S = 0.25


class ActorGone(ClusterError):
    """The actor of a process died, and so the process."""


class Fleet:
    """Handles and statuses of the process actors, by process name."""

    def __init__(self, cluster: str, cluster_id: str) -> None:
        self._cluster = cluster
        self._keys: Keys | None = None
        self._id = cluster_id
        self._actors: dict[str, Any] = {}
        self._seen: dict[str, tuple[TreeState, Silence]] = {}
        self._starting: dict[str, asyncio.Lock] = {}
        self._placing: dict[str, asyncio.Lock] = {}
        self._temp = self._logs = ""
        self.statuses: dict[str, ProcessStatus] = {}

    def expect(self, plan: Plan, keys: Keys, incarnations: dict[str, int]) -> None:
        """Know the processes of a plan, their keys, and how often each was started before."""
        self._keys = keys
        self._temp = plan.temp
        self._logs = str(Path(plan.manifest).parent / "logs")
        for process in plan.processes:
            self.know(process, incarnations.get(process.name, 0))

    def know(self, process: Process, incarnation: int = 0) -> None:
        """Know a process; one that is known already keeps its state."""
        own = self.statuses.setdefault(
            process.name,
            ProcessStatus(process.name, process.role.value, None, incarnation=incarnation),
        )
        own.url = process.url

    async def adopt(
        self, *, serving: bool, admitted: Mapping[str, int], stopped: Container[str]
    ) -> None:
        """Find the actors that are there already, with their processes.

        Args:
            serving: whether the cluster was up; processes of one that was still starting are
                waited for by `start_and_wait`.
            admitted: incarnations that were healthy: they stay so, for the gateway must not lose
                them. Others have to prove themselves first.
            stopped: processes that are not there on purpose.
        """
        import ray

        for name, own in self.statuses.items():
            try:
                actor = ray.get_actor(name)
                vitals: Vitals = await asyncio.wait_for(actor.vitals.remote(), CALL_LIMIT_S)
            except (ValueError, ray.exceptions.RayError, TimeoutError):
                own.state = ProcessState.DEAD if own.incarnation else ProcessState.PENDING
                if name in stopped:
                    own.state = ProcessState.STOPPED
                continue
            self._actors[name] = actor
            if vitals.incarnation:
                self._take(own, vitals)
                found = ProcessState.STARTING
                if serving:
                    same = admitted.get(name) == vitals.incarnation
                    found = ProcessState.HEALTHY if same else ProcessState.UNHEALTHY
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
            ClusterError: it died, was not healthy in ``process.start_s``, or was stopped meanwhile.
        """
        own = self.statuses[process.name]
        async with self._starting.setdefault(process.name, asyncio.Lock()):
            if own.state is ProcessState.HEALTHY:
                return
            adopted = own.state is ProcessState.STARTING
            own.state, own.reason = ProcessState.STARTING, None
            begin = time.monotonic()
            try:
                actor = await self._actor(process)
                if not adopted:
                    vitals = await self._call(
                        process.name, actor, "start", own.incarnation + 1, process
                    )
                    self._take(own, vitals)
                await self._wait_ready(process, actor, client, begin)
                if before_admission is not None:
                    await before_admission()
                self._refuse_stopped(process)
            except asyncio.CancelledError:
                self._failed(own, "its start was cut off.")
                raise
            except Exception as error:
                self._failed(own, str(error) or type(error).__name__)
                raise
            own.state, own.reason = ProcessState.HEALTHY, None
            own.started_in_s = round(time.monotonic() - begin, 2)

    @staticmethod
    def _failed(own: ProcessStatus, why: str) -> None:
        if own.state is ProcessState.STARTING:
            own.state, own.reason = ProcessState.DEAD, why

    async def _wait_ready(
        self, process: Process, actor: Any, client: httpx.AsyncClient, begin: float
    ) -> None:
        own = self.statuses[process.name]
        while True:
            missing = await ready(process, client)
            self._refuse_stopped(process)
            own.reason = missing
            vitals: Vitals = await self._call(process.name, actor, "vitals")
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

    def _refuse_stopped(self, process: Process) -> None:
        own = self.statuses.get(process.name)
        if own is None or own.state is not ProcessState.STARTING:
            raise ClusterError("was stopped during its start.", where=process.name)

    async def changed(self, process: Process, limit_s: float) -> Vitals:
        """The vitals of a process as soon as they change, or after ``limit_s``.

        Raises:
            ClusterError: its actor is gone.
        """
        own = self.statuses[process.name]
        if process.name not in self._actors:
            raise ActorGone("its actor is gone.", where=process.name)
        tree, silence = self._seen.get(process.name, (TreeState(), NOT_ASKED))
        known = Vitals(
            actor_pid=own.actor_pid or 0, pid=own.pid, supervisor_pid=own.supervisor_pid,
            running=True, exit_code=None, incarnation=own.incarnation,
            tree=tree, silence=silence,
        )  # fmt: skip
        actor = self._actors[process.name]
        vitals: Vitals = await self._call(process.name, actor, "changed", known, limit_s)
        self._seen[process.name] = vitals.tree, vitals.silence
        return vitals

    async def end(self, process: Process, why: str, *, at_once: bool = False) -> None:
        """End a process that runs; it is then DEAD and can be started again."""
        import ray

        own = self.statuses[process.name]
        if own.state not in (ProcessState.HEALTHY, ProcessState.UNHEALTHY):
            return
        own.state, own.reason = ProcessState.DEAD, why
        actor = self._actors.get(process.name)
        if actor is None:
            return
        try:
            await self._call(process.name, actor, "stop", at_once=at_once)
        except ClusterError:
            # What an actor owns ends with it, even if the actor itself hangs.
            self._actors.pop(process.name, None)
            ray.kill(actor)

    async def remove(self, process: Process, *, forget: bool) -> None:
        """End a process on purpose, and its actor: it is STOPPED until it is started again.

        Args:
            forget: it is no longer a part of the cluster.
        """
        import ray

        own = self.statuses.get(process.name)
        if own is not None:
            own.state, own.reason = ProcessState.STOPPED, None
        actor = self._actors.pop(process.name, None)
        if actor is None:
            with contextlib.suppress(ValueError):
                actor = ray.get_actor(process.name)
        if actor is not None:
            with contextlib.suppress(ClusterError):
                await self._call(process.name, actor, "stop")
            ray.kill(actor)
        if own is not None:
            own.pid = own.supervisor_pid = own.actor_pid = None
        if forget:
            self.statuses.pop(process.name, None)

    async def log_tail(self, process: Process, lines: int) -> str:
        """The last lines of a process's log; empty when its actor does not answer."""
        try:
            actor = self._actors[process.name]
            text: str = await self._call(process.name, actor, "log_tail", lines)
        except (KeyError, ClusterError):
            return ""
        return text

    async def write_file(self, process: Process, path: str, text: str) -> None:
        """Write a file on the node of a process.

        Raises:
            ClusterError: its actor does not answer.
        """
        actor = await self._actor(process)
        await self._call(process.name, actor, "write_file", path, text)

    async def failure(self, process: Process, what: str) -> ClusterError:
        """An error on a process with the end of its log."""
        log = await self.log_tail(process, 25)
        return ClusterError(
            f"{what}.", where=process.name, log_tail=log,
            remedy=f"Its log: pdcache logs {self._cluster} {process.name}",
        )  # fmt: skip

    async def stop_all(self) -> list[str]:
        """End all processes in parallel, then their actors; returns those that would not end."""
        import ray

        async def stop(name: str, actor: Any) -> bool:
            try:
                return bool(await self._call(name, actor, "stop"))
            except ClusterError:
                return True  # Its actor is gone, and so its process.

        actors = dict(self._actors)
        ended = await asyncio.gather(*(stop(name, actor) for name, actor in actors.items()))
        for name, actor in actors.items():
            self._actors.pop(name, None)
            ray.kill(actor)
            self.statuses[name].state = ProcessState.STOPPED
        return [name for name, ok in zip(actors, ended, strict=True) if not ok]

    async def place(self, process: Process) -> None:
        """Create the actor of a process, which takes a second, before the process is started.

        Raises:
            ClusterError: Ray did not place it.
        """
        await self._actor(process)

    async def _actor(self, process: Process) -> Any:
        """The living actor of a process, created when there is none."""
        async with self._placing.setdefault(process.name, asyncio.Lock()):
            if process.name not in self._actors:
                self._actors[process.name] = await self._new_actor(process)
            return self._actors[process.name]

    async def _new_actor(self, process: Process) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options: dict[str, Any] = {
            "name": process.name, "lifetime": "detached", "max_restarts": 0,
            "num_cpus": 0, "num_gpus": process.gpus, "get_if_exists": True,
            # One for each controller whose call still waits, and some for the living one.
            "max_concurrency": 8,
        }  # fmt: skip
        if process.ray_id is not None:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(
                living_node(process, ray.nodes()), soft=False
            )
        new = ray.remote(ProcessActor).options(**options)
        try:
            actor = new.remote(self._id, process, self._logs, self._temp, self._keys)
            try:
                await asyncio.wait_for(actor.vitals.remote(), PLACE_LIMIT_S)
            except ray.exceptions.RayActorError:
                # The one before was still on its way out.
                await asyncio.sleep(1.0)
                actor = new.remote(self._id, process, self._logs, self._temp, self._keys)
                await asyncio.wait_for(actor.vitals.remote(), PLACE_LIMIT_S)
        except (TimeoutError, ray.exceptions.RayError) as error:
            reason = "no node has the resources" if isinstance(error, TimeoutError) else str(error)
            raise ClusterError(
                f"Ray did not place it within {PLACE_LIMIT_S:.0f} s: {reason}.",
                where=process.name,
                remedy=f"It asks for {process.gpus} GPUs on {process.address}; see `ray status`.",
            ) from None
        return actor

    async def _call(self, name: str, actor: Any, method: str, *args: Any, **named: Any) -> Any:
        """Await a method of the actor of a process within a limit.

        Raises:
            ActorGone: it died. Its handle is forgotten, so the next start makes another actor.
            ClusterError: it did not answer, or the method failed.
        """
        import ray

        try:
            reference = getattr(actor, method).remote(*args, **named)
            return await asyncio.wait_for(reference, CALL_LIMIT_S)
        except TimeoutError:
            raise ClusterError(
                f"a call to a process actor timed out ({CALL_LIMIT_S:.0f} s)."
            ) from None
        except ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise (cause if isinstance(cause, ClusterError) else ClusterError(str(error))) from None
        except ray.exceptions.RayError as error:
            if self._actors.get(name) is actor:
                del self._actors[name]
            raise ActorGone(f"its actor is gone: {str(error).splitlines()[0]}") from None

    @staticmethod
    def _take(own: ProcessStatus, vitals: Vitals) -> None:
        own.pid, own.supervisor_pid = vitals.pid, vitals.supervisor_pid
        own.actor_pid, own.incarnation = vitals.actor_pid, vitals.incarnation
