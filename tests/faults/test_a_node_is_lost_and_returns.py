"""A whole Ray node goes and comes back: the others serve on, and its workers return with it.

Both nodes are this machine, under two of its addresses.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_tools import TINY, Shell, free_port, ray_token, wait_for
from tests.dialogues import running_cluster
from tests.load import Load, wrong_tokens

HEAD, OTHER = "127.0.0.1", "127.0.0.2"


@dataclass
class Ray:
    """A Ray cluster that a user started: a head, and nodes that come and go."""

    folder: Path
    temp: str
    port: int = field(default_factory=free_port)
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, address: str) -> None:
        """Start the node of an address, the head first."""
        log = self.folder / f"ray-{address}-{len(list(self.folder.iterdir()))}.log"
        where = (
            ["--head", f"--port={self.port}", f"--temp-dir={self.temp}",
             "--include-dashboard=false", f"--ray-client-server-port={free_port()}"]
            if address == HEAD else [f"--address={HEAD}:{self.port}"]
        )  # fmt: skip
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--block", *where,
            f"--node-ip-address={address}", "--object-store-memory=80000000",
        ]  # fmt: skip
        with open(log, "wb") as output:
            self.nodes[address] = subprocess.Popen(
                command, stdout=output, stderr=output, env=os.environ | ray_token(self.folder),
                start_new_session=True,
            )  # fmt: skip
        wait_for(lambda: "Ray runtime started" in log.read_text(), f"Ray on {address}", limit_s=60)

    def kill(self, address: str) -> None:
        """Power off: every process of a node's session at once."""
        node = self.nodes.pop(address)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait(20)


@pytest.fixture
def ray(tmp_path: Path) -> Iterator[Ray]:
    own = Ray(tmp_path, tempfile.mkdtemp(prefix="ray-"))
    try:
        own.start(HEAD)
        own.start(OTHER)
        yield own
    finally:
        for address in list(own.nodes):
            own.kill(address)
        shutil.rmtree(own.temp, ignore_errors=True)


@pytest.mark.soak
def test_the_other_node_serves_on_and_the_workers_return_with_their_node(
    ray: Ray, tmp_path: Path
) -> None:
    shell = Shell(tmp_path / "home")
    sets = ["decode.workers=2", f"gateway.port={free_port()}", "watch.reuse_s=0"]
    words = [word for one in sets for word in ("--set", one)]
    env = ray_token(tmp_path) | {"RAY_ADDRESS": f"{HEAD}:{ray.port}"}
    up = shell.run("up", "topologies/full_offload.yaml", *TINY, *words, env=env)
    assert up.returncode == 0, up.stdout + up.stderr
    try:
        plan = running_cluster(shell, "full-offload").plan
        there = {own.name for own in plan.processes if own.address == OTHER}
        assert {"prefill-1", "decode-1"} <= there
        pids = {name: own["pid"] for name, own in workers(shell).items() if name not in there}
        with Load(plan) as load:
            load.wait_for_turns(9)
            ray.kill(OTHER)
            wait_for(
                lambda: {workers(shell)[name]["state"] for name in there} <= {"DEAD", "STARTING"},
                "the node's processes to be out", limit_s=60,
            )  # fmt: skip
            assert any("not in the Ray cluster" in one for one in reasons_soon(shell))
            load.wait_for_turns(9)
            ray.start(OTHER)
            wait_for(lambda: state(shell) == "UP", "the cluster to be UP", limit_s=200)
            load.wait_for_turns(9)
        now = workers(shell)
        assert all(now[name]["incarnation"] == 2 for name in there)
        assert {name: now[name]["pid"] for name in pids} == pids
        failed = [turn for turn in load.done if turn.error]
        assert len(failed) <= 3, failed  # streams of the decode that was lost
        assert wrong_tokens(plan, load.done[-60:]) == []
        assert shell.json("verify", "full-offload")["proved"] is True
    finally:
        down = shell.run("down", "--all", env=env)
    assert down.returncode == 0, down.stderr
    assert not list(shell.home.glob("clusters/*/cluster.json"))


def workers(shell: Shell) -> dict[str, Any]:
    """Processes of the status by name."""
    return {own["name"]: own for own in shell.json("status", "full-offload")["workers"]}


def state(shell: Shell) -> str:
    """The cluster's state."""
    return str(shell.json("status", "full-offload")["state"])


def reasons_soon(shell: Shell) -> list[str]:
    """The reasons, once one of them speaks of Ray."""
    found: list[str] = []

    def told() -> bool:
        found[:] = shell.json("status", "full-offload")["reasons"]
        return any("Ray cluster" in one for one in found)

    wait_for(told, "the reason to be told", limit_s=60)
    return found
