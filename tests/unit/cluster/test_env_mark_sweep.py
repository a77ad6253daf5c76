"""What lost its parent is found by the cluster's mark in its environment, and ended."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pdcache.cluster.record import CLUSTER_ENV
from pdcache.cluster.sweep import end_marked, marked_processes, started
from tests.real_processes import alive, all_gone, until

Spawn = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start a command that carries a cluster's mark; it ends with the test."""
    running: list[subprocess.Popen[bytes]] = []

    def run(mark: str, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command or ("sleep", "1000"), env={**os.environ, CLUSTER_ENV: mark}
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def cluster() -> str:
    return secrets.token_hex(8)


def test_only_processes_with_the_mark_are_found(spawn: Spawn, cluster: str) -> None:
    ours = {spawn(cluster).pid, spawn(cluster).pid}
    spawn(cluster + "0")
    spawn("another")
    until("both carry the mark", lambda: set(marked_processes(cluster)) == ours)


def test_this_process_does_not_find_itself(monkeypatch: pytest.MonkeyPatch, cluster: str) -> None:
    code = (
        "from pdcache.cluster.sweep import marked_processes; import sys;"
        " print(marked_processes(sys.argv[1]))"
    )
    monkeypatch.setenv(CLUSTER_ENV, cluster)
    done = subprocess.run([sys.executable, "-c", code, cluster], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_marked_processes_are_ended_with_their_daemons_and_others_stay(
    spawn: Spawn, cluster: str
) -> None:
    spawn(cluster, "bash", "-c", "(setsid sleep 1000 &); exec sleep 1000")
    stranger = spawn("another")
    pids = until(
        "child and daemon carry the mark",
        lambda: found if len(found := marked_processes(cluster)) == 2 else [],
    )
    assert end_marked(cluster) == []
    assert all_gone(pids)
    assert alive(stranger.pid)


def test_nothing_marked_is_nothing_to_end(cluster: str) -> None:
    assert end_marked(cluster) == []


def test_shared_memory_of_marked_processes_is_removed(spawn: Spawn, cluster: str) -> None:
    path = f"/dev/shm/pdcache-test-{cluster}"
    code = (
        "import mmap, signal, sys\n"
        "file = open(sys.argv[1], 'w+b'); file.truncate(4096)\n"
        "memory = mmap.mmap(file.fileno(), 4096); signal.pause()"
    )
    process = spawn(cluster, sys.executable, "-c", code, path)
    until("it is mapped", lambda: path in Path(f"/proc/{process.pid}/maps").read_text())
    assert end_marked(cluster) == []
    assert not os.path.exists(path)


def test_a_process_is_told_from_a_later_one_with_its_pid_by_its_start(spawn: Spawn) -> None:
    first, second = spawn("any"), spawn("any")
    assert started(first.pid) == started(first.pid)
    own, later = started(os.getpid()), started(second.pid)
    assert own is not None
    assert later is not None
    assert own <= later


def test_a_dead_process_has_no_start(spawn: Spawn) -> None:
    process = spawn("any", "true")
    until("it is a zombie", lambda: not alive(process.pid))
    assert started(process.pid) is None
    process.wait()
    assert started(process.pid) is None
