"""A flush takes a prefill out only if nobody else did, and lets in only what it took out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from flushed_cluster import FlushedCluster, flushed_cluster

from pdcache.changes.actions import TAKEN_OUT
from pdcache.cluster import live as live_module
from pdcache.faults.chains import OUT, mend_chains

BOTH = {"prefill-0", "prefill-1"}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FlushedCluster:
    return flushed_cluster(tmp_path, monkeypatch)


def mend(cluster: FlushedCluster) -> None:
    asyncio.run(mend_chains(cluster.live, "the store was started anew"))


def test_each_prefill_is_out_for_its_own_flush_only(cluster: FlushedCluster) -> None:
    mend(cluster)
    assert cluster.flushed == [("prefill-0", OUT), ("prefill-1", OUT)]
    assert cluster.held == {}
    without = [[name for name in BOTH if f"{name}-1" not in row] for row in cluster.manifests]
    assert without == [["prefill-0"], [], ["prefill-1"], []]
    assert cluster.live.reasons == {}


def test_a_worker_that_a_failed_change_left_out_is_flushed_and_stays_out(
    cluster: FlushedCluster,
) -> None:
    cluster.held["prefill-0"] = TAKEN_OUT
    mend(cluster)
    assert ("prefill-0", TAKEN_OUT) in cluster.flushed
    assert cluster.held == {"prefill-0": TAKEN_OUT}
    assert all("prefill-0-1" not in row for row in cluster.manifests)


def test_the_last_worker_that_serves_is_flushed_where_it_is(cluster: FlushedCluster) -> None:
    cluster.held["prefill-0"] = TAKEN_OUT
    mend(cluster)
    assert ("prefill-1", None) in cluster.flushed


def test_a_worker_that_a_change_takes_out_during_its_flush_stays_out(
    cluster: FlushedCluster,
) -> None:
    cluster.during = lambda name: cluster.held.update({name: TAKEN_OUT})
    mend(cluster)
    assert cluster.held["prefill-0"] == TAKEN_OUT


def test_a_worker_that_a_change_takes_out_while_it_is_let_in_stays_out(
    cluster: FlushedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "GATEWAY_REMOVAL_S", 0.05)

    async def let_in() -> None:
        await cluster.live.hold("prefill-0", OUT)
        release = asyncio.create_task(cluster.live.release("prefill-0"))
        await asyncio.sleep(0)
        await cluster.live.hold("prefill-0", TAKEN_OUT)
        await release

    asyncio.run(let_in())
    assert cluster.held == {"prefill-0": TAKEN_OUT}
    assert all("prefill-0-1" not in row for row in cluster.manifests)
