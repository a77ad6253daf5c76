"""A process whose start a change gives up is the change's to start again, and nobody else's."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from live_plans import live

from pdcache.changes import actions
from pdcache.changes.actions import start
from pdcache.changes.change import Step
from pdcache.cluster.states import ProcessState
from pdcache.errors import ClusterError
from pdcache.plan.process import Process

WORKER = live().process("prefill-0")
STEP = Step("start", WORKER, WORKER)


class Cluster:
    """A worker whose start lasts for ever, or fails."""

    def __init__(self, failure: ClusterError | None = None) -> None:
        self.state = ProcessState.STOPPED
        self.failure = failure
        self.desired = SimpleNamespace(stopped=[WORKER.name])
        self.fleet = SimpleNamespace(is_healthy=lambda own: False, remove=self._remove)

    async def start(self, process: Process) -> None:
        self.state = ProcessState.STARTING
        try:
            if self.failure is not None:
                raise self.failure
            await asyncio.sleep(3600)
        finally:
            self.state = ProcessState.DEAD

    async def _remove(self, process: Process, *, forget: bool) -> None:
        assert not forget
        await asyncio.sleep(0)
        self.state = ProcessState.STOPPED


@pytest.fixture(autouse=True)
def nothing_is_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "define", lambda live, process: None)


def give_up(cluster: Any) -> None:
    asyncio.run(asyncio.wait_for(start(cluster, STEP, 60.0), 0.01))


def test_a_start_that_takes_too_long_is_stopped() -> None:
    cluster = Cluster()
    with pytest.raises(TimeoutError):
        give_up(cluster)
    assert cluster.state is ProcessState.STOPPED
    assert cluster.desired.stopped == [WORKER.name]


def test_a_start_that_fails_is_stopped_and_tells_why() -> None:
    cluster = Cluster(ClusterError("ended with exit code 1."))
    with pytest.raises(ClusterError, match="exit code 1"):
        give_up(cluster)
    assert cluster.state is ProcessState.STOPPED
    assert cluster.desired.stopped == [WORKER.name]
