"""Canaries go through the live cluster as often as its topology says at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from golden.plans import shipped

from pdcache.faults import reuse
from pdcache.faults.reuse import AGAIN_S, LOOK_S, watch_reuse
from pdcache.topology import Topology


def every(seconds: float) -> Topology:
    return shipped("full_offload", f"watch.reuse_s={seconds}")


class Watched:
    """A cluster whose clock goes on by itself, and the times at which canaries were sent.

    Attributes:
        applied: topologies by the second at which each takes the place of the one before.
    """

    def __init__(self, first: Topology, applied: Mapping[float, Topology]) -> None:
        self.now_s = 0.0
        self.sent: list[float] = []
        self.proved = True
        self.desired = SimpleNamespace(topology=first, change=None, serving=True)
        self.reasons: dict[str, str] = {}
        self._applied = applied

    def ill(self) -> list[str]:
        return []

    def heal(self, key: str, text: str) -> None:
        self.reasons.pop(key, None)

    def degrade(self, key: str, text: str, did: str) -> None:
        self.reasons[key] = text

    def canaries(self, until_s: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """When canaries are sent within so many seconds."""

        async def sleep(seconds: float) -> None:
            self.now_s += seconds
            if self.now_s > until_s:
                raise asyncio.CancelledError
            for at_s, topology in self._applied.items():
                if self.now_s >= at_s:
                    self.desired.topology = topology

        async def canary(live: object, turn: int) -> Any:
            self.sent.append(self.now_s)
            return SimpleNamespace(proved=self.proved, name="a", hop="b", evidence="c")

        monkeypatch.setattr(reuse, "asyncio", SimpleNamespace(sleep=sleep))
        monkeypatch.setattr(reuse, "_canary", canary)
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(watch_reuse(self))  # type: ignore[arg-type]
        return self.sent


def test_a_canary_is_sent_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Watched(every(12), {}).canaries(50, monkeypatch) == [12, 24, 36, 48]


def test_none_is_sent_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Watched(every(0), {}).canaries(3600, monkeypatch) == []


def test_after_a_failure_the_next_comes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    live = Watched(every(60), {})
    live.proved = False
    assert live.canaries(75, monkeypatch) == [60, 60 + AGAIN_S, 60 + 2 * AGAIN_S, 60 + 3 * AGAIN_S]
    assert live.reasons == {"reuse": "a (b): c"}


def test_canaries_that_are_switched_on_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = Watched(every(0), {100: every(30)}).canaries(200, monkeypatch)
    assert 100 <= first <= 130 + LOOK_S


def test_canaries_that_are_switched_off_end_and_can_begin_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = Watched(every(10), {25: every(0), 60: every(10)}).canaries(100, monkeypatch)
    assert sent[:2] == [10, 20]
    assert len(sent) > 2
    assert min(sent[2:]) >= 60


def test_another_interval_counts_while_a_long_one_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, *_ = Watched(every(3600), {100: every(20)}).canaries(200, monkeypatch)
    assert first <= 100 + LOOK_S


def test_what_is_not_watched_any_more_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    live = Watched(every(60), {70: every(0)})
    live.proved = False
    live.canaries(120, monkeypatch)
    assert live.reasons == {}
