"""A drain waits until a worker's pages are in L3, and says so when it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from live_plans import live

from pdcache.changes import actions
from pdcache.changes.actions import drain
from pdcache.changes.kinds import without_storage
from pdcache.changes.steps import drain_steps
from pdcache.cluster.events import Events
from pdcache.cluster.states import ProcessState, ProcessStatus
from pdcache.plan.process import Plan, Process
from pdcache.topology.schema import Role

ILL = "http://127.0.0.1:20003: HTTP 503"
PLAN = live("decode.workers=2")


class Cluster:
    """As much of the live cluster as a drain touches.

    Attributes:
        ill: what is wrong with the store.
        waited: how often pages were asked for in L3.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan: Plan = PLAN
        self.events = Events(folder / "events.jsonl")
        self.client = None
        self.ill: str | None = None
        self.out: set[str] = set()
        self.waited = 0
        rows = {own.name: self._status(own) for own in PLAN.processes}
        self.fleet = SimpleNamespace(statuses=rows)
        monkeypatch.setattr(actions.admin, "flush", self._flush)
        monkeypatch.setattr(actions, "healthy", self._healthy)
        monkeypatch.setattr(actions, "unwritten", self._unwritten)

    def process(self, name: str) -> Process:
        return self.plan.process(name)

    def serving(self, role: Role) -> list[Process]:
        return [own for own in self.plan.role(role) if own.name not in self.out]

    @asynccontextmanager
    async def new_client(self, limit_s: float) -> AsyncIterator[None]:
        yield

    def drained(self, name: str) -> list[str]:
        """What is told of a worker's drain."""
        self.out.add(name)
        step = drain_steps((self.plan.process(name),))[1]
        asyncio.run(drain(self, step, 5.0))  # type: ignore[arg-type]
        return [event.text for event in self.events.since(0) if event.subject == name]

    @staticmethod
    def _status(process: Process) -> ProcessStatus:
        return ProcessStatus(process.name, process.role.value, process.url, ProcessState.HEALTHY)

    async def _flush(self, *args: object, limit_s: float) -> None: ...

    async def _healthy(self, *args: object) -> str | None:
        return self.ill

    async def _unwritten(self, *args: object) -> int:
        self.waited += 1
        return 0


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(tmp_path, monkeypatch)


@pytest.mark.parametrize("worker", ["prefill-0", "decode-0"])
def test_a_drain_that_waited_for_l3_has_nothing_to_tell(cluster: Cluster, worker: str) -> None:
    assert cluster.drained(worker) == []
    assert cluster.waited == 1


@pytest.mark.parametrize("worker", ["prefill-0", "decode-0"])
def test_with_an_ill_store_nobody_waits_and_that_is_told(cluster: Cluster, worker: str) -> None:
    cluster.ill = ILL
    assert cluster.drained(worker) == [f"drained without waiting for L3: the store is ill ({ILL})"]
    assert cluster.waited == 0


@pytest.mark.parametrize(
    ("worker", "out", "role"),
    [
        ("prefill-0", {"decode-0", "decode-1"}, "decode"),
        ("decode-0", {"prefill-0", "prefill-1"}, "prefill"),
    ],
)
def test_without_a_partner_nobody_waits_and_that_is_told(
    cluster: Cluster, worker: str, out: set[str], role: str
) -> None:
    cluster.out = out
    assert cluster.drained(worker) == [
        f"drained without waiting for L3: no {role} worker serves for a last request"
    ]
    assert cluster.waited == 0


def test_a_worker_without_l3_has_nothing_to_wait_for(cluster: Cluster) -> None:
    cluster.plan, cluster.ill = without_storage(PLAN), ILL
    assert cluster.drained("prefill-0") == []
    assert cluster.waited == 0
