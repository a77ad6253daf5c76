"""The script of a plan, run with small processes in the places of the real ones."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from golden.plans import golden_plan

from pdcache.plan import Plan
from pdcache.plan.process import Process
from pdcache.plan.shell import shell_script
from pdcache.topology.facts import port_is_free

# Says its pid, and listens.
LISTEN = """
import os, socket, sys, time
print("pid", os.getpid(), flush=True)
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True:
        server.accept()[0].close()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def listening(process: Process) -> Process:
    port = free_port()
    return replace(
        process, argv=(sys.executable, "-c", LISTEN, str(port)), url=None, address="127.0.0.1",
        ports={"rpc": port}, health_port=port, start_s=60,
    )  # fmt: skip


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A master, a decode worker and a gateway that only listen."""
    made = golden_plan("full_offload")
    chosen = [made.process(name) for name in ("store-master", "decode-0", "gateway")]
    return replace(
        made, processes=tuple(map(listening, chosen)), temp=str(tmp_path / "temp"),
        manifest=str(tmp_path / "home" / "workers.json"), python=sys.executable,
    )  # fmt: skip


@pytest.fixture
def script(plan: Plan, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The script, once it has said UP."""
    env = os.environ | {"LOGS": str(tmp_path)}
    with subprocess.Popen(
        ["bash", "-c", shell_script(plan)], env=env, stdout=subprocess.PIPE, text=True
    ) as bash:
        assert bash.stdout is not None
        try:
            assert f"UP {plan.endpoint}\n" in iter(bash.stdout.readline, "")
            yield bash
        finally:
            bash.terminate()
            bash.wait(60)


def nothing_is_left(plan: Plan) -> bool:
    ports = [port for process in plan.processes for port in process.ports.values()]
    folders = [Path(plan.temp), Path(plan.manifest)]
    return all(map(port_is_free, ports)) and not any(path.exists() for path in folders)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_the_script_is_ended(
    plan: Plan, script: subprocess.Popen[str], number: int
) -> None:
    assert Path(plan.manifest).exists()
    for process in plan.processes:
        socket.create_connection(("127.0.0.1", process.ports["rpc"])).close()
    script.send_signal(number)
    assert script.wait(60) != 0
    assert nothing_is_left(plan)


@pytest.mark.parametrize("name", ["decode-0", "gateway"])
def test_nothing_is_left_when_a_process_dies(
    plan: Plan, script: subprocess.Popen[str], tmp_path: Path, name: str
) -> None:
    os.kill(int((tmp_path / f"{name}.log").read_text().split()[1]), signal.SIGKILL)
    assert script.wait(60) != 0
    assert nothing_is_left(plan)


def test_a_process_that_dies_before_all_are_up_ends_the_script(plan: Plan, tmp_path: Path) -> None:
    first, second, third = plan.processes
    dead = replace(second, argv=("false",))
    script = shell_script(replace(plan, processes=(first, dead, third)))
    done = subprocess.run(
        ["bash", "-c", script], env=os.environ | {"LOGS": str(tmp_path)}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "a process died; logs: " in done.stderr
    assert "UP " not in done.stdout
    assert nothing_is_left(plan)
