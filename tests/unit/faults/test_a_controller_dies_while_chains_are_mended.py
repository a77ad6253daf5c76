"""What one controller saw, took out and did not finish to mend is taken up by the next one."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flushed_cluster import FlushedCluster, KeptDesired, desired, flushed_cluster

from pdcache.changes.actions import TAKEN_OUT
from pdcache.cluster import controller as controller_module
from pdcache.cluster.controller import Controller
from pdcache.cluster.live import Live
from pdcache.faults import contents as contents_module
from pdcache.faults.chains import KEY, OUT, end_flushes, mend_chains
from pdcache.faults.contents import Contents, watch_store

STARTS = {"store-master": 1, "store-holder-0": 1}
ANEW = {"store-master": 2, "store-holder-0": 1}
BOTH = ["prefill-0", "prefill-1"]


class Killed(BaseException):
    """The controller is killed at this point; nothing after it is done."""


class Store:
    """A store that serves, with what it holds at each look; the last one is seen twice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *looks: Contents) -> None:
        self._looks = list(looks)
        self._left = len(looks) + 1
        monkeypatch.setattr(contents_module, "healthy", self._healthy)
        monkeypatch.setattr(contents_module, "contents", self._contents)
        monkeypatch.setattr(contents_module, "asyncio", SimpleNamespace(sleep=self._sleep))

    async def _healthy(self, client: httpx.AsyncClient, store: object) -> None:
        return None

    async def _contents(self, live: Live, client: httpx.AsyncClient) -> Contents:
        return self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]

    async def _sleep(self, seconds: float) -> None:
        self._left -= 1
        if self._left == 0:
            raise Killed


def watch(cluster: FlushedCluster) -> None:
    """Watch the store until the controller is killed."""
    with pytest.raises(Killed):
        asyncio.run(watch_store(cluster.live))


def killed_in_a_flush(folder: Path, monkeypatch: pytest.MonkeyPatch) -> KeptDesired:
    """What a controller leaves that is killed while its first prefill is out for its flush."""
    cluster = flushed_cluster(folder, monkeypatch)
    left: list[KeptDesired] = []
    cluster.during = lambda name: left.append(cluster.desired.as_found())
    asyncio.run(mend_chains(cluster.live, "the store was started anew"))
    return left[0]


# --- killed in the middle of a flush


def test_a_prefill_that_was_out_for_a_flush_is_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = killed_in_a_flush(tmp_path, monkeypatch)
    assert left.held == {"prefill-0": OUT}
    left.held["prefill-1"] = TAKEN_OUT
    cluster = flushed_cluster(tmp_path, monkeypatch, left)
    asyncio.run(end_flushes(cluster.live))
    assert cluster.held == {"prefill-1": TAKEN_OUT}
    assert cluster.desired.as_found().held == cluster.held


def test_the_controller_that_resumes_lets_it_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = killed_in_a_flush(tmp_path, monkeypatch)
    cluster = flushed_cluster(tmp_path, monkeypatch, left)
    control = object.__new__(Controller)
    control._cluster, control._live, control._tasks = "demo", None, []
    control._resuming = asyncio.Lock()

    async def nothing(*args: object, **named: object) -> None:
        pass

    control._fleet = SimpleNamespace(expect=lambda *args: None, adopt=nothing)  # type: ignore
    monkeypatch.setattr(controller_module.desired, "load", lambda *args: left)
    monkeypatch.setattr(Controller, "_go_live", lambda self, found: cluster.live)
    monkeypatch.setattr(Controller, "_run", nothing)

    async def resume() -> None:
        await control.resume()
        await asyncio.gather(*control._tasks)

    asyncio.run(resume())
    assert cluster.held == {}


def test_all_prefills_are_flushed_by_the_next_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = killed_in_a_flush(tmp_path, monkeypatch)
    cluster = flushed_cluster(tmp_path, monkeypatch, left)
    Store(monkeypatch, Contents(ANEW, 0.0))
    watch(cluster)
    assert [name for name, _ in cluster.flushed] == BOTH
    assert cluster.desired.as_found().broken is None
    told = [event.kind for event in cluster.live.events.since(0) if event.subject == KEY]
    assert told[-2:] == ["degraded", "healed"]


def test_what_was_mended_is_not_mended_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = flushed_cluster(tmp_path, monkeypatch)
    asyncio.run(mend_chains(cluster.live, "the store was started anew"))
    assert cluster.desired.as_found().broken is None


def test_a_mend_that_ends_before_a_later_one_does_not_call_that_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = flushed_cluster(tmp_path, monkeypatch)
    cluster.during = lambda name: setattr(cluster.live.desired, "broken", "lost again")
    asyncio.run(mend_chains(cluster.live, "the store was started anew"))
    assert cluster.live.desired.broken == "lost again"


# --- killed between the loss and its notice


@pytest.mark.parametrize("now", [Contents(ANEW, 900.0), Contents(STARTS, 390.0)])
def test_a_loss_that_no_controller_saw_is_seen_by_the_next_one(
    now: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = flushed_cluster(tmp_path, monkeypatch)
    Store(monkeypatch, Contents(STARTS, 800.0), Contents(STARTS, 1000.0))
    watch(before)
    assert before.flushed == []
    after = flushed_cluster(tmp_path, monkeypatch, before.desired.as_found())
    Store(monkeypatch, now)
    watch(after)
    assert [name for name, _ in after.flushed] == BOTH
    assert after.desired.as_found().contents == now


def test_without_a_loss_the_next_controller_flushes_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = desired(contents=Contents(STARTS, 1000.0))
    cluster = flushed_cluster(tmp_path, monkeypatch, kept)
    Store(monkeypatch, Contents(STARTS, 900.0))
    watch(cluster)
    assert cluster.flushed == []


# --- what is kept


def test_what_the_store_holds_is_kept_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = flushed_cluster(tmp_path, monkeypatch)
    Store(monkeypatch, *(Contents(STARTS, 1000.0 + look) for look in range(200)))
    watch(cluster)
    assert cluster.desired.saves == 1


@pytest.mark.parametrize(
    ("now", "near"),
    [
        (Contents(STARTS, 800.0), True),
        (Contents(STARTS, 1250.0), True),
        (Contents(STARTS, None), True),
        (Contents(STARTS, 799.0), False),
        (Contents(STARTS, 1251.0), False),
        (Contents(ANEW, 1000.0), False),
        (Contents(ANEW, None), False),
    ],
)
def test_a_look_that_is_near_to_what_is_kept_is_not_kept(now: Contents, near: bool) -> None:
    assert now.is_near(Contents(STARTS, 1000.0)) is near
    assert not now.is_near(None)
    assert not Contents(STARTS, 5.0).is_near(Contents(STARTS, None))
    assert Contents(STARTS, None).is_near(Contents(STARTS, None))


@pytest.mark.parametrize("field", ["broken", "contents"])
def test_a_desired_state_that_was_kept_without_a_field_can_be_taken_up(field: str) -> None:
    kept: Any = desired()
    del kept.__dict__[field]
    assert getattr(pickle.loads(pickle.dumps(kept)), field) is None
