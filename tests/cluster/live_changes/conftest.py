"""One full_offload cluster of the tiny model and the load on it, for the whole package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.live_changes.watched import Watched
from tests.cluster_tools import SMALL, Shell, cluster, free_port
from tests.controller import Controller
from tests.load import Load

FILE = "topologies/full_offload.yaml"
PORTS = (
    "prefill.port=21050", "prefill.bootstrap_port=20650", "decode.port=21060",
    "store.port=20660", "store.metrics_port=20670",
)  # fmt: skip
"""Given ones, so that no other cluster of this machine takes the next while this one grows."""


@pytest.fixture(scope="package")
def sets() -> tuple[str, ...]:
    """What is laid over the topology, by `up` and by `apply`."""
    values = ("name=live-changes", f"gateway.port={free_port()}", *PORTS)
    return (*SMALL, *(word for value in values for word in ("--set", value)))


@pytest.fixture(scope="package")
def _live(tmp_path_factory: pytest.TempPathFactory, sets: tuple[str, ...]) -> Iterator[Watched]:
    """One prefill and one decode worker to begin with, under load."""
    shell = Shell(tmp_path_factory.mktemp("home"))
    with (
        cluster(shell, FILE, *sets) as up,
        Controller(shell, up["name"]) as controller,
        Load(controller.running().plan, think_s=1.0) as load,
    ):
        live = Watched(shell, up["name"], load, controller)
        yield live
    print(f"\n{live.table()}")


@pytest.fixture
def live(_live: Watched) -> Watched:
    """The shared cluster as the test before left it."""
    if _live.broken is not None:
        pytest.skip(f"builds on {_live.broken}, which failed")
    return _live
