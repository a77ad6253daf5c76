"""SIGKILL to each kind of process of a cluster; after `down` nothing of it is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster_tools import SMALL, Shell, free_port, kill, tree_of, wait_for
from tests.real_processes import until

FILE = "topologies/full_offload.yaml"
WORKERS = ("prefill-0", "decode-0")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path / "home")
    yield shell
    down = shell.run("down", "--all")
    assert down.returncode == 0, down.stderr
    shell.assert_nothing_left()


def bring_up(shell: Shell) -> dict[str, Any]:
    up: dict[str, Any] = shell.json(
        "up", FILE, *SMALL, "--no-verify", "--set", f"gateway.port={free_port()}"
    )
    return {worker["name"]: worker for worker in up["workers"]}


def named(shell: Shell, part: str) -> int:
    """The process of this cluster whose command line holds a text."""
    for process in shell.processes():
        if part in " ".join(process.cmdline()):
            return process.pid
    raise AssertionError(f"no process with {part!r}")


def scheduler(shell: Shell, prefill: dict[str, Any]) -> int:
    return next(p.pid for p in tree_of(prefill["pid"]) if "scheduler" in " ".join(p.cmdline()))


def supervisor(shell: Shell, prefill: dict[str, Any]) -> int:
    return int(prefill["supervisor_pid"])


def actor(shell: Shell, prefill: dict[str, Any]) -> int:
    return int(prefill["actor_pid"])


@pytest.mark.parametrize(
    "victim",
    [supervisor, *(pytest.param(one, marks=pytest.mark.soak) for one in (scheduler, actor))],
)
def test_a_worker_s_tree_goes_as_a_whole_and_down_leaves_nothing(
    shell: Shell, victim: Callable[[Shell, dict[str, Any]], int]
) -> None:
    prefill = bring_up(shell)["prefill-0"]
    tree = tree_of(prefill["pid"])
    kill(victim(shell, prefill))
    wait_for(
        lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in tree),
        "the worker's tree to be gone", limit_s=30,
    )  # fmt: skip
    shell.ok("down")
    shell.assert_nothing_left()


@pytest.mark.parametrize("part", ["raylet/raylet", "supervisor.py -1"])
def test_losing_ray_or_its_supervisor_leaves_nothing_after_down(shell: Shell, part: str) -> None:
    bring_up(shell)
    kill(named(shell, part))
    shell.ok("down")
    shell.assert_nothing_left()


def test_a_preloaded_server_that_is_lost_costs_time_only(shell: Shell) -> None:
    """Servers are forks of it; without it the next one is started by its command."""
    workers = bring_up(shell)
    preloaded = named(shell, "pdcache::preloaded")
    parents = [psutil.Process(supervisor(shell, workers[name])).ppid() for name in WORKERS]
    assert parents == [preloaded, preloaded]
    kill(preloaded)
    kill(workers["prefill-0"]["pid"])

    def again() -> dict[str, Any] | None:
        own = {one["name"]: one for one in shell.json("status")["workers"]}
        return own if own["prefill-0"]["incarnation"] == 2 and all_healthy(own) else None

    after = until("prefill-0 is healthy again", again, limit_s=90)
    assert after["decode-0"]["pid"] == workers["decode-0"]["pid"]
    shell.ok("down")
    shell.assert_nothing_left()


def all_healthy(workers: dict[str, Any]) -> bool:
    return all(one["state"] == "HEALTHY" for one in workers.values())


def test_a_killed_up_is_cleaned_by_down(shell: Shell) -> None:
    up = shell.start("up", FILE, *SMALL, "--set", f"gateway.port={free_port()}")
    assert up.stdout is not None
    while "prefill-0 starting" not in (line := up.stdout.readline()):
        assert line, "up ended before it started a worker"
    kill(up.pid)
    up.wait(10)
    assert shell.processes(), "the cluster should outlive its `up`"
    shell.ok("down")
    shell.assert_nothing_left()


def test_ctrl_c_during_up_leaves_nothing(shell: Shell) -> None:
    up = shell.start("up", FILE, *SMALL, "--set", f"gateway.port={free_port()}")
    assert up.stdout is not None
    while "prefill-0 starting" not in (line := up.stdout.readline()):
        assert line, "up ended before it started a worker"
    up.send_signal(2)
    rest = up.communicate(timeout=60)[0]
    assert up.returncode == 130, rest
    assert "Traceback" not in rest
    shell.assert_nothing_left()
