"""The controller: a detached actor that holds the desired state and brings the cluster to it.

Every method is idempotent. A controller that was killed comes back, loads the desired state, finds
its process actors by name, and goes on, with a change that was running too; the processes serve
all the while.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from pdcache.changes.change import Change, ChangeState
from pdcache.changes.run import run_change
from pdcache.cluster import desired
from pdcache.cluster.desired import Desired
from pdcache.cluster.endpoint import HOST, Endpoint
from pdcache.cluster.events import Event, Events
from pdcache.cluster.fleet import Fleet
from pdcache.cluster.live import Live
from pdcache.cluster.sigterm import end_at_sigterm
from pdcache.cluster.starting import bring_up
from pdcache.cluster.states import ClusterState, ClusterStatus
from pdcache.cluster.watching import watch
from pdcache.errors import ClusterError, PdcacheError
from pdcache.faults.chains import end_flushes
from pdcache.faults.contents import watch_store
from pdcache.faults.disk import watch_disk
from pdcache.faults.loads import watch_loads
from pdcache.faults.reuse import watch_reuse
from pdcache.faults.writes import watch_writes
from pdcache.plan.process import Plan
from pdcache.sglang.keys import Keys
from pdcache.topology.schema import Topology

CONTROLLER = "controller"
DEFECT_PAUSE_S = 2.0
BIND_TRIES = 30
WATCHES: dict[str, Callable[[Live], Awaitable[None]]] = {
    "processes": watch,
    "store": watch_store,
    "writes": watch_writes,
    "loads": watch_loads,
    "reuse": watch_reuse,
    "disk": watch_disk,
}
"""What a cluster that serves is looked after by, side by side and for ever."""

logger = logging.getLogger(__name__)


class Controller:
    """Brings up a plan, watches it, recreates what dies, runs changes."""

    def __init__(self, cluster: str, cluster_id: str) -> None:
        end_at_sigterm()
        self._cluster = cluster
        self._fleet = Fleet(cluster, cluster_id)
        self._live: Live | None = None
        self._failure: PdcacheError | None = None
        self._stopped = False
        self._endpoint: Endpoint | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._resuming = asyncio.Lock()
        _resume_if_restarted()

    async def resume(self) -> int:
        """Take up the desired state that an earlier incarnation left; returns this pid."""
        async with self._resuming:
            saved = desired.load(self._cluster) if self._live is None else None
            if saved is not None:
                live = self._go_live(saved)
                self._fleet.expect(saved.plan, saved.keys, saved.incarnations)
                await self._fleet.adopt(
                    serving=saved.serving, admitted=saved.admitted, stopped=saved.stopped
                )
                live.events.add("controller", "restarted", f"as pid {os.getpid()}", "adopted all")
                self._spawn(self._run(live))
                self._spawn(end_flushes(live))
                if saved.change is not None and saved.change.state is ChangeState.RUNNING:
                    self._spawn(run_change(live, saved.change))
        return os.getpid()

    async def deploy(self, plan: Plan, topology: Topology, keys: Keys) -> None:
        """Start bringing up a plan; `status` tells how far it is."""
        if self._live is None:
            live = self._go_live(Desired(plan, topology, keys))
            self._fleet.expect(plan, keys, {})
            live.save()
            self._spawn(self._run(live))

    async def status(self) -> ClusterStatus:
        """How the cluster is doing at this moment."""
        await self.resume()
        live = self._live
        for own in self._fleet.statuses.values():
            own.held = live.desired.held.get(own.name) if live else None
        return ClusterStatus(
            name=self._cluster,
            state=self._state(),
            endpoint=live.plan.endpoint if live else None,
            workers=list(self._fleet.statuses.values()),
            reasons=self._reasons(),
            failed=str(self._failure) if self._failure else None,
            serving=live.desired.serving if live else False,
            change=live.desired.change if live else None,
            controller=f"http://{HOST}:{live.plan.controller_port}" if live else None,
        )

    async def desired(self) -> Desired | None:
        """The desired state: topology, plan, and the last change."""
        await self.resume()
        return self._live.desired if self._live else None

    async def events(self, since: int) -> list[Event]:
        """What happened after the event of that number."""
        await self.resume()
        return self._live.events.since(since) if self._live else []

    async def mark_proved(self, proved: bool, reasons: list[str]) -> None:
        """Take the result of a proof: UP, or DEGRADED with the reasons."""
        await self.resume()
        if self._live is not None:
            own = self._live.desired
            own.proved, own.doubts = proved, reasons
            text = "reuse is proved" if proved else "; ".join(reasons)
            self._live.events.add("cluster", "proof", text)
            self._live.save()

    async def begin(self, change: Change) -> None:
        """Start a change of the live cluster; `status` tells how far it is.

        Sent again it changes nothing. A change that failed is taken up by being sent with its
        state set back to RUNNING.

        Raises:
            ClusterError: another change runs, or failed and is not finished.
        """
        await self.resume()
        live = self._live
        if live is None or not live.desired.serving:
            raise ClusterError("the cluster is not up yet.", where=self._cluster)
        last = live.desired.change
        if last is not None and last.id == change.id and last.state is ChangeState.RUNNING:
            return
        if last is not None and last.id != change.id:
            last.refuse_another()
        live.desired.change = change
        live.save()
        self._spawn(run_change(live, change))

    async def stop(self) -> list[str]:
        """End every process; returns the names that would not end."""
        await self.resume()
        if self._endpoint is not None:
            await self._endpoint.stop()
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._stopped = True
        left = await self._fleet.stop_all()
        # Not before: should this controller die meanwhile, the next one must know what to end.
        desired.forget(self._cluster)
        return left

    def _go_live(self, own: Desired) -> Live:
        events = Events(Path(own.plan.manifest).parent / "logs" / "events.jsonl")
        self._live = Live(self._cluster, own, self._fleet, events)
        self._endpoint = Endpoint(self.status, events, own.keys)
        self._spawn(self._serve(self._live, self._endpoint))
        return self._live

    async def _serve(self, live: Live, endpoint: Endpoint) -> None:
        """Open the endpoint; a controller that was killed may have its port for a moment."""
        for _ in range(BIND_TRIES):
            try:
                await endpoint.start(live.plan.controller_port)
            except OSError as error:
                live.degrade("endpoint", f"the controller's endpoint is not open: {error}")
                await asyncio.sleep(DEFECT_PAUSE_S)
            else:
                live.heal("endpoint", "the controller's endpoint is open")
                return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(asyncio.create_task(work))

    def _state(self) -> ClusterState:
        live = self._live
        if self._stopped:
            return ClusterState.DOWN
        if self._failure is not None:
            return ClusterState.FAILED
        if live is None or live.desired.proved is None:
            return ClusterState.STARTING
        well = live.desired.proved and not self._reasons()
        return ClusterState.UP if well else ClusterState.DEGRADED

    def _reasons(self) -> list[str]:
        if self._failure is not None:
            return [str(self._failure), *filter(None, [self._failure.log_tail])]
        live = self._live
        if live is None or live.desired.proved is None:
            return []
        change = live.desired.change
        failed = [change.verdict()] if change is not None and change.is_open_failure else []
        return [*live.desired.doubts, *live.ill(), *live.reasons.values(), *failed]

    async def _run(self, live: Live) -> None:
        if not live.desired.serving:
            try:
                await bring_up(live)
            except PdcacheError as error:
                self._failure = error
                return
            live.desired.serving = True
            live.save()
        await asyncio.gather(
            *(_for_ever(live, what, start) for what, start in WATCHES.items()),
        )


async def _for_ever(live: Live, what: str, start: Callable[[Live], Awaitable[None]]) -> None:
    """A watch that a defect of ours ended is begun anew, and the defect is told."""
    while True:
        try:
            await start(live)
            return
        except Exception as error:
            text = f"the watch of {what} failed: {type(error).__name__}: {error}"
            live.events.add("controller", "defect", text, "begun anew")
            logger.exception(text)
            await asyncio.sleep(DEFECT_PAUSE_S)


def _resume_if_restarted() -> None:
    """Have a controller that Ray started again go on at once, not when somebody asks for it."""
    import ray

    own = ray.get_runtime_context()
    if own.was_current_actor_reconstructed:
        own.current_actor.resume.remote()
