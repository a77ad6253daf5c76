"""With RAY_ADDRESS the cluster runs on a Ray cluster of the user's, which outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdcache.cluster.sweep import marked_processes
from tests.cluster_tools import (
    PDCACHE,
    SMALL,
    Shell,
    free_port,
    port_is_closed,
    ray_token,
    wait_for,
)


@pytest.fixture
def ray_address(tmp_path: Path) -> Iterator[str]:
    """A Ray head with token auth, started as a user would."""
    port, temp = free_port(), tempfile.mkdtemp(prefix="ray-")
    log = tmp_path / "ray.log"
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
        "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={temp}",
        "--include-dashboard=false", "--object-store-memory=80000000",
        f"--ray-client-server-port={free_port()}",
    ]  # fmt: skip
    with open(log, "wb") as output:
        head = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | ray_token(tmp_path),
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(lambda: "Ray runtime started" in log.read_text(), "the Ray head", limit_s=60)
        yield f"127.0.0.1:{port}"
        assert head.poll() is None, "the user's Ray head ended"
    finally:
        head.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(temp, ignore_errors=True)


def test_a_cluster_on_a_given_ray_is_proved_and_leaves_it_as_it_was(
    ray_address: str, tmp_path: Path
) -> None:
    shell = Shell(tmp_path / "home")
    env = shell.env | ray_token(tmp_path) | {"RAY_ADDRESS": ray_address}
    port = free_port()

    def run(*args: str) -> str:
        done = subprocess.run(
            [PDCACHE, *args], env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("up", "topologies/full_offload.yaml", *SMALL, "--set", f"gateway.port={port}")
    assert '"state": "UP"' in run("status", "--json")
    assert "Prefill batch" in run("logs", "full-offload", "prefill-0", "-n", "500")
    record = json.loads((shell.home / "clusters/full-offload/cluster.json").read_text())
    other = Shell(tmp_path / "other home")
    given = ray_token(tmp_path) | {"RAY_ADDRESS": ray_address}
    said = other.fails("up", "topologies/full_offload.yaml", *SMALL, "--no-verify", env=given)
    assert "full-offload" in said and "--name" in said, said
    assert not [*other.home.glob("clusters/*/cluster.json")]
    assert '"state": "UP"' in run("status", "--json"), "who was refused changed what runs"
    run("down")
    assert port_is_closed(port)
    assert not list(shell.home.glob("clusters/*/cluster.json"))
    assert marked_processes(record["id"]) == []
