"""An actor that died is never called again, and a start that is cut off is no start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from golden.plans import golden_plan
from ray.exceptions import RayActorError

from pdcache.cluster import fleet as fleet_module
from pdcache.cluster.fleet import ActorGone, Fleet
from pdcache.cluster.process_actor import Vitals
from pdcache.cluster.states import ProcessState
from pdcache.cluster.tree import TreeState
from pdcache.plan.process import Process
from pdcache.sglang.keys import Keys

PLAN = golden_plan("full_offload")
WORKER = PLAN.process("prefill-0")
CLIENT = httpx.AsyncClient()


class Actor:
    """A process actor whose process runs, until it dies at the methods it is told to die at."""

    def __init__(self, dies_at: set[str]) -> None:
        self.incarnation = 0
        for name in ("start", "vitals", "changed", "log_tail", "write_file"):
            deed = getattr(self, f"_{name}", self._vitals)
            setattr(self, name, SimpleNamespace(remote=self._method(name, deed, dies_at)))

    def _method(self, name: str, deed: Callable[..., object], dies_at: set[str]) -> Any:
        async def call(*args: object) -> object:
            if name in dies_at:
                raise RayActorError
            return deed(*args)

        return call

    def _start(self, incarnation: int, process: Process) -> Vitals:
        self.incarnation = incarnation
        return self._vitals()

    def _vitals(self, *args: object) -> Vitals:
        return Vitals(1, 2, 3, True, None, self.incarnation, TreeState())


class FleetOfActors(Fleet):
    """Its actors are made up; the first one of a process dies where it is told to."""

    def __init__(self, *dies_at: str) -> None:
        super().__init__("demo", "0")
        self.made: list[Actor] = []
        self._dies_at = set(dies_at)
        self.expect(PLAN, Keys("admin"), {})

    @property
    def own(self) -> Any:
        return self.statuses[WORKER.name]

    async def _new_actor(self, process: Process) -> Actor:
        self.made.append(Actor(set() if self.made else self._dies_at))
        return self.made[-1]

    async def start(self, before_admission: Callable[[], Awaitable[None]] | None = None) -> None:
        await self.start_and_wait(WORKER, CLIENT, before_admission)


@pytest.fixture(autouse=True)
def all_are_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ready(process: Process, client: httpx.AsyncClient) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(fleet_module, "ready", ready)


@pytest.mark.parametrize("moment", ["start", "vitals"])
def test_an_actor_that_dies_during_a_start_is_replaced_by_the_next_start(moment: str) -> None:
    fleet = FleetOfActors(moment)

    async def twice() -> None:
        with pytest.raises(ActorGone):
            await fleet.start()
        assert fleet.own.state is ProcessState.DEAD
        await fleet.start()

    asyncio.run(twice())
    assert fleet.own.state is ProcessState.HEALTHY
    assert len(fleet.made) == 2


@pytest.mark.parametrize("moment", ["changed", "log_tail", "write_file"])
def test_an_actor_that_is_found_dead_is_called_no_more(moment: str) -> None:
    fleet = FleetOfActors(moment)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "changed": lambda: fleet.changed(WORKER, 1.0),
        "log_tail": lambda: fleet.log_tail(WORKER, 5),
        "write_file": lambda: fleet.write_file(WORKER, "/a", "b"),
    }

    async def once() -> None:
        await fleet.start()
        try:
            assert await calls[moment]() == ""
        except ActorGone:
            assert moment != "log_tail"
        await fleet.place(WORKER)

    asyncio.run(once())
    assert len(fleet.made) == 2


def test_a_late_word_of_a_dead_actor_does_not_lose_the_one_in_its_place() -> None:
    fleet = FleetOfActors("changed")

    async def late() -> None:
        await fleet.start()
        word = asyncio.create_task(fleet.changed(WORKER, 1.0))
        await asyncio.sleep(0)
        fleet._actors[WORKER.name] = Actor(set())
        with pytest.raises(ActorGone):
            await word
        await fleet.place(WORKER)

    asyncio.run(late())
    assert len(fleet.made) == 1


async def cut_off(fleet: FleetOfActors, then: Callable[[], object] = lambda: None) -> None:
    """Cancel a start in the middle of the proof before its admission."""
    begun = asyncio.Event()

    async def prove() -> None:
        begun.set()
        await asyncio.Event().wait()

    start = asyncio.create_task(fleet.start(prove))
    await begun.wait()
    then()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start


def test_a_start_that_is_cut_off_is_dead_and_can_be_made_again() -> None:
    fleet = FleetOfActors()

    async def twice() -> None:
        await cut_off(fleet)
        assert fleet.own.state is ProcessState.DEAD
        assert fleet.own.reason == "its start was cut off."
        await fleet.start()

    asyncio.run(twice())
    assert (fleet.own.state, fleet.own.incarnation) == (ProcessState.HEALTHY, 2)


def test_a_start_that_is_cut_off_after_a_change_stopped_it_stays_stopped() -> None:
    fleet = FleetOfActors()
    asyncio.run(cut_off(fleet, lambda: setattr(fleet.own, "state", ProcessState.STOPPED)))
    assert fleet.own.state is ProcessState.STOPPED
