"""The desired state says what a worker has of L3 at every moment, and not what it will have."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace

import pytest
from live_plans import edited, live

from pdcache.changes import actions
from pdcache.changes.actions import Action, attach, detach
from pdcache.changes.change import Step
from pdcache.changes.kinds import detached
from pdcache.errors import ClusterError
from pdcache.plan.process import Process

BEFORE = live().process("prefill-0")
EDIT = ("prefill.hicache.prefetch_threshold=128", "prefill.hicache.write_policy=write_back")
AFTER = edited(live(), *EDIT).process("prefill-0")


class Cluster:
    """As much of the live cluster as the two actions touch; a test says what goes wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.desired = SimpleNamespace(plan=live())
        self.fleet = SimpleNamespace(know=lambda process: None)
        self.client = None
        self.store_is_well = self.sglang_takes_it = True
        self.kept = BEFORE
        for name in ("attach", "detach"):
            monkeypatch.setattr(actions.storage, name, self._answer)

    def process(self, name: str) -> Process:
        return self.desired.plan.process(name)

    def save(self) -> None:
        self.kept = self.process("prefill-0")

    async def wait_store(self) -> None:
        if not self.store_is_well:
            raise ClusterError("the store did not answer.")

    async def _answer(self, *args: object, limit_s: float) -> None:
        if not self.sglang_takes_it:
            raise ClusterError("HTTP 400.")

    def after(self, *deeds: Action, to: Process = AFTER) -> Process:
        """What is kept of the worker once these steps are over, well or not."""
        for action in deeds:
            with suppress(ClusterError):
                asyncio.run(action(self, Step("", to, BEFORE), 5.0))  # type: ignore[arg-type]
        return self.kept


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def test_a_worker_that_could_not_be_detached_has_its_old_options(cluster: Cluster) -> None:
    cluster.sglang_takes_it = False
    assert cluster.after(detach) == BEFORE


def test_a_detached_worker_has_neither_the_old_options_nor_the_new_ones(cluster: Cluster) -> None:
    assert cluster.after(detach) == detached(BEFORE)
    assert cluster.after(detach) == detached(BEFORE), "a second time"


def test_a_worker_that_could_not_be_attached_is_still_without_l3(cluster: Cluster) -> None:
    cluster.store_is_well = False
    assert cluster.after(detach, attach) == detached(BEFORE)
    cluster.store_is_well, cluster.sglang_takes_it = True, False
    assert cluster.after(attach) == detached(BEFORE)


def test_an_attached_worker_has_the_new_options(cluster: Cluster) -> None:
    assert cluster.after(detach, attach) == AFTER


def test_a_worker_that_shall_have_no_l3_is_what_it_shall_be(cluster: Cluster) -> None:
    assert cluster.after(detach, to=detached(BEFORE)) == detached(BEFORE)
