"""A cluster that is watched: a real `Live` over processes that a test lets die, hang and return.

Its clock goes on by itself whenever somebody sleeps, so hours pass in no time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from golden.plans import golden_plan, shipped

from pdcache.cluster import live as live_module
from pdcache.cluster import watching
from pdcache.cluster.desired import Desired
from pdcache.cluster.events import Events
from pdcache.cluster.fleet import ActorGone
from pdcache.cluster.live import Live
from pdcache.cluster.process_actor import Vitals
from pdcache.cluster.pulse import EVERY_S, Silence
from pdcache.cluster.states import ProcessState, ProcessStatus
from pdcache.cluster.tree import TreeState
from pdcache.cluster.watching import Watch
from pdcache.errors import PdcacheError
from pdcache.plan.process import Plan, Process
from pdcache.sglang.keys import Keys

PLAN = golden_plan("full_offload")


class Clock:
    """Takes the place of `asyncio` and of `time` in the modules that a test slows down."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += max(seconds, 0.0)
        await asyncio.sleep(0)


class WatchedFleet:
    """Processes without processes: what the watch asks of them, and what it did with them.

    Attributes:
        exit_code: of those that ended.
        gone: those whose actor is gone.
        missing: what a process does not answer, by its name.
        waits: seconds that each call for changes was ready to wait, in order.
        tree: what is wrong in their trees.
        start_errors: what the next starts of a process fail with.
        did: starts and ends, in order.
        manifests: ids of the workers in each manifest that was written.
        known_at_end: the manifest at the moment in which a process was ended.
    """

    def __init__(self, clock: Clock, plan: Plan) -> None:
        self._clock = clock
        self._manifest = plan.manifest
        self.statuses = {
            own.name: ProcessStatus(
                own.name, own.role.value, own.url, ProcessState.HEALTHY, incarnation=1
            )
            for own in plan.processes
        }
        self.exit_code: dict[str, int] = {}
        self.gone: set[str] = set()
        self.missing: Callable[[str], str | None] = lambda name: None
        self.waits: list[float] = []
        self._silence: dict[str, Silence] = {}
        self.tree: dict[str, TreeState] = {}
        self.start_errors: dict[str, list[PdcacheError]] = {}
        self.did: list[str] = []
        self.manifests: list[list[str]] = []
        self.known_at_end: dict[str, list[str]] = {}

    def is_healthy(self, process: Process) -> bool:
        return self.statuses[process.name].state is ProcessState.HEALTHY

    async def changed(self, process: Process, limit_s: float) -> Vitals:
        name, left_s = process.name, limit_s
        self.waits.append(limit_s)
        await self._clock.sleep(0.0)
        while left_s > 0 and not self._is_ill(name):
            await self._clock.sleep(min(left_s, EVERY_S))
            left_s -= EVERY_S
            if not self._is_ill(name) and self._listen(name):
                break
        if name in self.gone:
            raise ActorGone("its actor is gone.", where=name)
        code = self.exit_code.get(name)
        tree = self.tree.get(name, TreeState())
        silence = self._silence.get(name, Silence())
        return Vitals(1, 2, 3, code is None, code, self.statuses[name].incarnation, tree, silence)

    def _is_ill(self, name: str) -> bool:
        return name in {*self.exit_code, *self.gone, *self.tree}

    def _listen(self, name: str) -> bool:
        """One look at its health; whether that changed what is known."""
        before, missing = self._silence.get(name, Silence()), self.missing(name)
        self._silence[name] = Silence(missing, before.looks + 1 if missing else 0)
        return self._silence[name] != before

    async def start_and_wait(
        self, process: Process, client: httpx.AsyncClient,
        before_admission: Callable[[], Awaitable[None]] | None = None,
    ) -> None:  # fmt: skip
        own = self.statuses[process.name]
        own.state, own.reason = ProcessState.STARTING, None
        own.incarnation += 1
        self.did.append(f"start {process.name}")
        self.exit_code.pop(process.name, None)
        self.gone.discard(process.name)
        self.tree.pop(process.name, None)
        try:
            if errors := self.start_errors.get(process.name):
                raise errors.pop(0)
            if before_admission is not None:
                await before_admission()
        except Exception as error:
            own.state, own.reason = ProcessState.DEAD, str(error)
            raise
        own.state, own.started_in_s, own.pid = ProcessState.HEALTHY, 1.0, 42

    async def end(self, process: Process, why: str, *, at_once: bool = False) -> None:
        own = self.statuses[process.name]
        if own.state in (ProcessState.HEALTHY, ProcessState.UNHEALTHY):
            self.did.append(f"{'kill' if at_once else 'end'} {process.name}")
            self.known_at_end[process.name] = self.manifests[-1]
            own.state, own.reason = ProcessState.DEAD, why

    async def log_tail(self, process: Process, lines: int) -> str:
        return f"the last {lines} lines of {process.name}"

    async def write_file(self, process: Process, path: str, text: str) -> None:
        assert (process.name, path) == ("gateway", self._manifest)
        self.manifests.append([worker["id"] for worker in json.loads(text)["workers"]])


class KeptDesired(Desired):
    """Is kept nowhere; ``saves`` counts how often it would have been."""

    saves = 0

    def save(self, cluster: str) -> None:
        self.saves += 1


class Cluster:
    """A cluster that served until a test does something to it.

    Attributes:
        silent: names of processes whose health does not answer.
        leaving: names of those that say they take no more requests.
        store_is_well: what the store's health says.
        proof_errors: what the next proofs fail with.
        proved: workers that were proved.
    """

    def __init__(self, folder: Path, plan: Plan, clock: Clock) -> None:
        self.clock = clock
        self.fleet = WatchedFleet(clock, plan)
        self.silent: set[str] = set()
        self.leaving: set[str] = set()
        self.store_is_well = True
        self.proof_errors: list[PdcacheError] = []
        self.proved: list[str] = []
        desired = KeptDesired(plan, shipped("full_offload"), Keys("admin"), serving=True)
        self.live = Live("demo", desired, self.fleet, Events(folder / "events.jsonl"))
        self.live.client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        self.fleet.missing = self._missing

    async def prove(self, live: Live, worker: Process, client: httpx.AsyncClient) -> None:
        """In place of the canaries."""
        assert not any(own.startswith(f"{worker.name}-") for own in self.manifest)
        if self.proof_errors:
            raise self.proof_errors.pop(0)
        self.proved.append(worker.name)

    @property
    def kept(self) -> int:
        """How often the desired state was written to Ray's GCS."""
        desired = self.live.desired
        assert isinstance(desired, KeptDesired)
        return desired.saves

    @property
    def manifest(self) -> list[str]:
        """Workers that the gateway knows of."""
        return self.fleet.manifests[-1] if self.fleet.manifests else []

    def own(self, name: str) -> ProcessStatus:
        """How a process is doing."""
        return self.fleet.statuses[name]

    def events(self, name: str) -> list[str]:
        """Kinds of events of a process, in order."""
        return [event.kind for event in self.live.events.since(0) if event.subject == name]

    def watch(self, name: str, *steps: Callable[[], object]) -> None:
        """Watch one process: each step is waited for until it is true, then comes the next."""
        self._during(Watch(self.live, name).run(), steps)

    def watch_all(self, *steps: Callable[[], object]) -> None:
        """Watch every process, as the controller does."""
        self._during(watching.watch(self.live), steps)

    def _during(
        self, work: Coroutine[Any, Any, None], steps: Sequence[Callable[[], object]]
    ) -> None:
        async def go() -> None:
            await self.live.publish()
            task = asyncio.create_task(work)
            for number, step in enumerate(steps):
                for _ in range(10_000):
                    if step():
                        break
                    assert not task.done(), task
                    await asyncio.sleep(0)
                else:
                    pytest.fail(f"step {number} never came true: {self.fleet.statuses}")
            task.cancel()

        asyncio.run(go())

    def _answer(self, request: httpx.Request) -> httpx.Response:
        at = f"http://{request.url.host}:{request.url.port}"
        if at in self.live.plan.store.urls:
            return httpx.Response(200 if self.store_is_well else 503)
        raise AssertionError(f"nobody asks {request.url}")

    def _missing(self, name: str) -> str | None:
        if name in self.silent:
            return f"{name}: ConnectError"
        return f"{name}: HTTP 503" if name in self.leaving else None


def watched_cluster(folder: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan = PLAN) -> Cluster:
    """A cluster whose watch has the clock of the test, and no TCP port to ask for."""
    rows = tuple(replace(own, health_port=None) for own in plan.processes)
    plan = replace(plan, processes=rows)
    clock = Clock()
    cluster = Cluster(folder, plan, clock)
    modules: tuple[ModuleType, ...] = (watching, live_module)
    for module in modules:
        monkeypatch.setattr(module, "asyncio", clock)
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(watching, "prove_again", cluster.prove)
    return cluster
