"""Ray's `Node`, as the local head uses it: actors, and none of what the head leaves out."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pdcache.cluster.environment import cluster_environment
from pdcache.cluster.head import RAY_HEAD, STARTED
from tests.cluster_tools import free_port
from tests.real_processes import alive, all_gone, until

ASK = """
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")

@ray.remote
class Counter:
    def add(self, number):
        return number + 1

print(ray.get(Counter.remote().add.remote(41), timeout=60))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    token = tmp_path / "token"
    token.write_text("a" * 64)
    return os.environ | cluster_environment("a-contract-test", str(token))


@pytest.fixture
def head(tmp_path: Path, environment: dict[str, str]) -> Iterator[tuple[psutil.Popen, int]]:
    """A head that is up, and its port; Ray's own paths do not fit below pytest's folders."""
    port, log = free_port(), tmp_path / "ray.log"
    with tempfile.TemporaryDirectory(prefix="pdc-") as temp, open(log, "wb") as output:
        own = psutil.Popen(
            [sys.executable, "-m", RAY_HEAD, str(port), temp], env=environment,
            stdout=output, stderr=output,
        )  # fmt: skip
        try:
            until("Ray is up", lambda: STARTED in log.read_text(), limit_s=60)
            yield own, port
        finally:
            own.terminate()
            own.wait(30)


def programs(head: psutil.Popen) -> set[str]:
    """What runs below it, by program or by the title that Ray gives."""
    return {
        Path(" ".join(one.cmdline()).split()[0]).name
        for one in head.children(recursive=True)
        if one.status() != psutil.STATUS_ZOMBIE
    }


def test_a_head_runs_actors_and_has_no_dashboard_or_client_server(
    head: tuple[psutil.Popen, int], environment: dict[str, str]
) -> None:
    own, port = head
    asked = subprocess.run(
        [sys.executable, "-c", ASK, f"127.0.0.1:{port}"], env=environment,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert asked.stdout.strip() == "42", asked.stderr
    found = {one for one in programs(own) if not one.startswith("ray::IDLE")}
    assert found == {"gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent"}


def test_a_head_without_its_raylet_ends_and_leaves_nothing(
    head: tuple[psutil.Popen, int],
) -> None:
    own, _ = head
    below = [one.pid for one in own.children(recursive=True)]
    next(one for one in own.children() if one.name() == "raylet").kill()
    until("it has ended", lambda: not alive(own.pid))
    until("all of it is gone", lambda: all_gone(below))
