"""How a plan is brought up: what waits for what, and what does not."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from golden.plans import golden_plan

from pdcache.cluster.fleet import Fleet
from pdcache.cluster.live import Live
from pdcache.cluster.starting import bring_up
from pdcache.cluster.states import ProcessState, ProcessStatus
from pdcache.errors import ClusterError
from pdcache.plan.process import Process

PLAN = golden_plan("full_offload")


class MadeUpActors(Fleet):
    """Its actors are made up; those of some processes cannot be placed."""

    def __init__(self, refused: tuple[str, ...] = ()) -> None:
        super().__init__("demo", "0")
        self.made: list[str] = []
        self.refused = refused

    async def _new_actor(self, process: Process) -> object:
        await asyncio.sleep(0)
        self.made.append(process.name)
        if process.name in self.refused:
            raise ClusterError("Ray did not place it.", where=process.name)
        return object()


class Starting:
    """A cluster whose processes start at once; tells what happened, in order."""

    def __init__(self, refused: tuple[str, ...] = ()) -> None:
        self.plan = PLAN
        self.fleet = MadeUpActors(refused)
        self.told: list[str] = []
        self._states = {
            own.name: ProcessStatus(own.name, own.role.value, None) for own in PLAN.processes
        }

    def status(self, name: str) -> ProcessStatus:
        return self._states[name]

    async def start(self, process: Process) -> None:
        await self.fleet.place(process)
        self.told.append(process.name)
        self._states[process.name].state = ProcessState.HEALTHY

    async def wait_store(self) -> None:
        self.told.append("the store answers")

    async def publish(self) -> None:
        self.told.append("the manifest is written")

    async def wait_registered(self, workers: list[Process], limit_s: float) -> None:
        self.told.append("the gateway knows all")

    def bring_up(self) -> list[str]:
        asyncio.run(bring_up(cast(Live, self)))
        return self.told


def test_each_wave_waits_for_the_one_before() -> None:
    told = Starting().bring_up()
    servers = {"prefill-0", "prefill-1", "decode-0"}
    ready = "the store answers"
    assert told[:4] == ["store-master", ready, "store-holder-0", ready]
    assert set(told[4:7]) == servers
    assert told[7:] == [ready, "the manifest is written", "gateway", "the gateway knows all"]


def test_all_actors_are_made_before_the_first_process_has_started() -> None:
    starting = Starting()
    made_before: list[int] = []

    async def start(process: Process) -> None:
        await asyncio.sleep(0.01)
        made_before.append(len(starting.fleet.made))
        await Starting.start(starting, process)

    cast(Any, starting).start = start
    starting.bring_up()
    assert made_before[0] == len(PLAN.processes)
    assert sorted(starting.fleet.made) == sorted(own.name for own in PLAN.processes)


def test_an_actor_that_cannot_be_placed_is_the_error_of_its_own_start() -> None:
    starting = Starting(refused=("prefill-1",))
    with pytest.raises(ClusterError, match="Ray did not place it") as refusal:
        starting.bring_up()
    assert refusal.value.where == "prefill-1"
    assert "store-holder-0" in starting.told
    assert "gateway" not in starting.told


def test_an_actor_is_made_once_however_many_ask_for_it_at_once() -> None:
    fleet = MadeUpActors()
    process = PLAN.process("prefill-0")

    async def at_once() -> None:
        await asyncio.gather(*(fleet.place(process) for _ in range(3)))

    asyncio.run(at_once())
    assert fleet.made == ["prefill-0"]
