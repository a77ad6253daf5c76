"""What the watches of loads and writes ask: each worker once, and the idle ones seldom."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median_low
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from golden.plans import THREE_GPU_NODES, fixed_facts, shipped
from hypothesis import given
from hypothesis import strategies as st

from pdcache.faults import writes as writes_module
from pdcache.faults.loads import AT_ONCE, loads
from pdcache.faults.slow import FACTOR, paces_behind
from pdcache.faults.writes import HANDED, SETTLED_LOOKS, STORED, SURE_S, Watched, watch_writes
from pdcache.plan import Plan, build_plan
from pdcache.sglang.idle import PATH, Load
from pdcache.sglang.keys import Keys

TOLD = 7.0


def plan_of(workers: int) -> Plan:
    overrides = [f"prefill.workers={workers // 2}", f"decode.workers={workers // 2}"]
    topology = shipped("full_offload", "device=cuda", "model.path=Qwen/Qwen3-8B", *overrides)
    return build_plan(topology, fixed_facts(THREE_GPU_NODES))


class Workers:
    """A live cluster of idle workers that counts what it is asked."""

    def __init__(self, count: int) -> None:
        self.plan = plan_of(count)
        self.asked: Counter[str] = Counter()
        self.keys_sent: set[str | None] = set()
        self.at_once = self.most_at_once = 0
        row = {"num_running_reqs": 0, "num_waiting_reqs": 0, "timestamp": TOLD}
        self.answer: Any = {"loads": [row]}
        self.ill: set[str] = set()
        self.silent: set[str] = set()
        self.fleet = SimpleNamespace(is_healthy=lambda own: own.name not in self.ill)
        self.loads: dict[str, Load] = {}
        self.reasons: dict[str, str] = {}
        self.desired = SimpleNamespace(keys=Keys("admin", "gateway key"))
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self._page))

    def status(self, name: str) -> Any:
        return SimpleNamespace(incarnation=1)

    @asynccontextmanager
    async def get(self, url: str, *, headers: dict[str, str]) -> AsyncIterator[Any]:
        """As aiohttp's session: tells the load of an idle worker."""
        name = self._name(url.removesuffix(PATH))
        self.keys_sent.add(headers.get("Authorization"))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if name in self.silent:
            raise TimeoutError

        async def json(content_type: str | None) -> Any:
            return self.answer

        yield SimpleNamespace(raise_for_status=lambda: None, json=json)

    def _page(self, request: httpx.Request) -> httpx.Response:
        self._name(str(request.url).removesuffix("/metrics"))
        return httpx.Response(200, text=f"{HANDED} 5\n{STORED} 5\n")

    def _name(self, url: str) -> str:
        name = next(own.name for own in self.plan.processes if own.url == url)
        self.asked[name] += 1
        return name


def look(live: Workers) -> dict[str, Load]:
    return asyncio.run(loads(live, live))


@pytest.mark.parametrize("count", [4, 20])
def test_each_worker_is_asked_for_its_load_once_a_look(count: int) -> None:
    live = Workers(count)
    found = look(live)
    assert len(found) == count
    assert set(live.asked.values()) == {1}
    assert live.asked.total() == count
    assert live.keys_sent == {"Bearer gateway key"}


def test_no_more_than_some_workers_are_asked_at_a_time() -> None:
    live = Workers(20)
    look(live)
    assert 1 < live.most_at_once <= AT_ONCE


def test_who_is_not_healthy_is_not_asked_and_who_is_silent_is_left_out() -> None:
    live = Workers(4)
    live.ill, live.silent = {"prefill-0"}, {"decode-1"}
    assert set(look(live)) == {"prefill-1", "decode-0"}
    assert "prefill-0" not in live.asked


@pytest.mark.parametrize("answer", [[], {}, {"loads": None}, {"loads": [1]}, None])
def test_what_is_no_load_is_left_out(answer: Any) -> None:
    live = Workers(4)
    live.answer = answer
    assert look(live) == {}


# --- writes


def pages_read(live: Workers, passes: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Pages of metrics that so many passes of the watch read."""
    slept = 0

    async def sleep(seconds: float) -> None:
        nonlocal slept
        slept += 1
        if slept == passes:
            raise asyncio.CancelledError

    stand_in = SimpleNamespace(sleep=sleep)
    with monkeypatch.context() as patch:
        patch.setattr(writes_module, "asyncio", stand_in)
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(watch_writes(live))
    return live.asked.total()


@pytest.mark.parametrize("count", [4, 20])
def test_pages_of_idle_workers_are_read_until_they_have_settled(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Workers(count)
    live.loads = {own.name: Load(0, 0, {}, at_s=TOLD) for own in live.plan.processes}
    assert pages_read(live, 30, monkeypatch) == count // 2 * SETTLED_LOOKS


def test_pages_of_workers_whose_load_is_not_known_are_read_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert pages_read(Workers(4), 30, monkeypatch) == 2 * 30


def settled() -> Watched:
    own = Watched()
    for _ in range(SETTLED_LOOKS + 1):
        own.look({HANDED: 5.0, STORED: 5.0}, TOLD, 100.0)
    return own


def test_an_idle_worker_is_asked_again_when_it_made_a_step_and_now_and_then() -> None:
    assert not settled().is_due(TOLD, 101.0)
    assert settled().is_due(TOLD + 1, 101.0)
    assert settled().is_due(TOLD, 100.0 + SURE_S)
    assert settled().is_due(None, 101.0)


def test_while_something_is_on_its_way_a_worker_is_asked_every_time() -> None:
    own = settled()
    own.look({HANDED: 9.0, STORED: 5.0}, TOLD + 1, 102.0)
    assert own.is_due(TOLD + 1, 104.0)
    lost = [own.look({HANDED: 9.0, STORED: 5.0}, TOLD + 1, 104.0) for _ in range(SETTLED_LOOKS)]
    assert sum(lost) == 4.0
    assert not own.is_due(TOLD + 1, 112.0)


# --- paces


@given(st.dictionaries(st.text(max_size=3), st.floats(0.1, 1000.0), max_size=9))
def test_each_pace_is_held_against_the_lower_median_of_the_others(paces: dict[str, float]) -> None:
    behind = {}
    for name, pace in paces.items():
        others = [other for peer, other in paces.items() if peer != name]
        if others and pace * FACTOR < median_low(others):
            behind[name] = median_low(others)
    assert paces_behind(paces) == behind
