"""A worker that is busy leaves the gateway for its new policies, and always comes back."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from live_plans import edited, live

from pdcache.changes import actions
from pdcache.changes.actions import TAKEN_OUT, policies
from pdcache.changes.change import Step
from pdcache.errors import ClusterError

AFTER = edited(live(), "prefill.hicache.prefetch_policy=wait_complete").process("prefill-0")
STEP = Step("policies", AFTER, live().process("prefill-0"))


class Cluster:
    """Notes what is done to a worker; SGLang refuses as often as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refusals: int, peers: int = 1) -> None:
        self.did: list[str] = []
        self.refusals = refusals
        self.client = None
        self.desired = SimpleNamespace(held={})
        self._peers = [live().process("prefill-0"), live().process("prefill-1")][: peers + 1]
        monkeypatch.setattr(actions.storage, "attach", self._attach)
        monkeypatch.setattr(actions, "define", lambda cluster, process: self.did.append("define"))
        for name in ("hold", "idle", "release"):
            monkeypatch.setattr(actions, name, self._action(name))

    def serving(self, role: object) -> list[Any]:
        return self._peers

    async def _attach(self, *args: object, limit_s: float) -> None:
        self.did.append("put")
        if self.refusals:
            self.refusals -= 1
            raise ClusterError("is not idle.")

    def _action(self, name: str) -> Any:
        async def act(cluster: object, step: Step, limit_s: float) -> None:
            self.did.append(name)
            if name == "hold":
                self.desired.held[step.process.name] = TAKEN_OUT
            if name == "release":
                del self.desired.held[step.process.name]

        return act

    def run(self) -> list[str]:
        self.did.clear()
        asyncio.run(policies(self, STEP, 60.0))  # type: ignore[arg-type]
        return self.did


def test_a_worker_that_is_idle_stays_in_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Cluster(monkeypatch, refusals=0).run() == ["put", "define"]


def test_a_busy_worker_is_taken_out_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, refusals=1)
    assert cluster.run() == ["put", "hold", "idle", "put", "define", "release"]


def test_a_worker_that_an_earlier_try_took_out_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, refusals=2)
    with pytest.raises(ClusterError):
        cluster.run()
    assert cluster.desired.held == {"prefill-0": TAKEN_OUT}
    assert cluster.run() == ["put", "define", "release"]
    assert cluster.desired.held == {}


def test_a_worker_that_others_keep_out_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, refusals=0)
    cluster.desired.held["prefill-0"] = "out for a flush"
    assert cluster.run() == ["put", "define"]


def test_the_only_worker_is_not_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, refusals=1, peers=0)
    with pytest.raises(ClusterError):
        cluster.run()
    assert cluster.did == ["put"]
