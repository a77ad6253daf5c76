"""One full_offload cluster of the tiny model for the whole package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pdcache.plan import Plan
from tests.cluster_tools import TINY, Shell, cluster, free_port
from tests.dialogues import Running, running_cluster


@pytest.fixture(scope="package")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Commands under a home of their own."""
    return Shell(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="package")
def full_offload(shell: Shell) -> Iterator[dict[str, Any]]:
    """The shipped topology with the tiny model, up and proved; its `up --json`."""
    port = f"gateway.port={free_port()}"
    with cluster(shell, "topologies/full_offload.yaml", *TINY, "--set", port) as up:
        yield up


@pytest.fixture(scope="package")
def running(shell: Shell, full_offload: dict[str, Any]) -> Running:
    """Plan and keys of the shared cluster, when all of it is healthy."""
    return running_cluster(shell, full_offload["name"])


@pytest.fixture(scope="package")
def plan(running: Running) -> Plan:
    """The plan of the shared cluster."""
    return running.plan
