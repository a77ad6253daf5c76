"""A process tree ends with its owner, however the owner ends. Real processes throughout."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pdcache.cluster.supervised import SUPERVISOR, SupervisedProcess, tail
from pdcache.cluster.supervisor import descendants
from pdcache.errors import ClusterError
from tests.real_processes import alive, all_gone, command_of, until

ENV = {"PATH": os.environ["PATH"]}
Start = Callable[..., SupervisedProcess]

# A child, and a grandchild in a session of its own whose parent is gone: a daemon.
WITH_DAEMON = "(setsid sleep 1000 &); exec sleep 1000"
READY_AND_DEAF = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
READY_AND_POLITE = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a bash script under a supervisor; whatever is left of it ends with the test."""
    running: list[SupervisedProcess] = []

    def run(script: str, *, grace_s: float = 5.0, **env: str) -> SupervisedProcess:
        process = SupervisedProcess(
            ["bash", "-c", script], env=ENV | env, log=tmp_path / "p.log", grace_s=grace_s
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.stop()


def tree(process: SupervisedProcess) -> list[int]:
    """The two `sleep` of `WITH_DAEMON`, once both run."""

    def both_sleep() -> list[int]:
        found = descendants(process.supervisor_pid)
        names = [command_of(pid) for pid in found]
        return found if names == ["sleep", "sleep"] else []

    return until("child and daemon sleep", both_sleep)


def says(process: SupervisedProcess, word: str) -> None:
    until(f"the log says {word}", lambda: word in process.log.read_text())


def test_stopping_ends_the_child_and_its_daemon(start: Start) -> None:
    process = start(WITH_DAEMON)
    pids = tree(process)
    assert process.pid in pids
    assert process.running
    assert process.stop()
    assert all_gone(pids)
    assert process.exit_code == -signal.SIGTERM
    until("the supervisor has followed", lambda: not alive(process.supervisor_pid))


def test_stopping_twice_is_fine(start: Start) -> None:
    process = start("exec sleep 1000")
    assert process.stop()
    assert process.stop()


OWNER = """
import json, signal, sys
from pathlib import Path
from pdcache.cluster.supervised import SupervisedProcess
process = SupervisedProcess(
    ["bash", "-c", sys.argv[1]], env={"PATH": sys.argv[2]}, log=Path(sys.argv[3]), grace_s=5)
print(json.dumps([process.supervisor_pid, process.pid]), flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def an_owner(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int, list[int]]]:
    """A process that owns a tree; yields it, its supervisor, and the tree's processes."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, WITH_DAEMON, ENV["PATH"], str(tmp_path / "p.log")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert owner.stdin is not None
    assert owner.stdout is not None
    pids: list[int] = []
    with owner:
        try:
            supervisor, _ = json.loads(owner.stdout.readline())
            pids = until(
                "child and daemon run",
                lambda: found if len(found := descendants(supervisor)) == 2 else [],
            )
            yield owner, supervisor, pids
        finally:
            owner.kill()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_an_owner_killed_with_sigkill_takes_the_whole_tree_with_it(tmp_path: Path) -> None:
    with an_owner(tmp_path) as (owner, supervisor, pids):
        owner.kill()
        until("the tree is gone", lambda: all_gone([*pids, supervisor]))


def test_all_of_a_node_is_one_session_for_linux_shares_cores_between_sessions(
    start: Start,
) -> None:
    process = start("exec sleep 1000")
    own = (process.supervisor_pid, process.pid)
    assert {os.getsid(pid) for pid in own} == {os.getsid(0)}
    assert len({os.getpgid(pid) for pid in (0, *own)}) == 3


def test_an_owner_that_ends_by_itself_takes_the_whole_tree_with_it(tmp_path: Path) -> None:
    with an_owner(tmp_path) as (owner, supervisor, pids):
        assert owner.stdin is not None
        owner.stdin.close()
        assert owner.wait(30) == 0
        until("the tree is gone", lambda: all_gone([*pids, supervisor]))


def test_a_killed_process_group_of_the_owner_takes_the_whole_tree_with_it(tmp_path: Path) -> None:
    """A raylet ends a worker so; the supervisor left the group and lives to end the tree."""
    with an_owner(tmp_path) as (owner, supervisor, pids):
        assert os.getpgid(supervisor) != owner.pid
        os.killpg(owner.pid, signal.SIGKILL)
        until("the tree is gone", lambda: all_gone([*pids, supervisor]))


def test_the_head_of_the_tree_dies_with_a_killed_supervisor(start: Start) -> None:
    process = start("exec sleep 1000")
    os.kill(process.supervisor_pid, signal.SIGKILL)
    until("the head is gone", lambda: not alive(process.pid))
    until("the owner has noticed", lambda: not process.running)
    assert process.exit_code == -9


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9), ("kill -11 $$", -11)]
)
def test_the_exit_code_is_reported(start: Start, script: str, code: int) -> None:
    process = start(script)
    until("it has ended", lambda: not process.running)
    assert process.exit_code == code


def test_a_head_that_ends_takes_its_daemon_with_it(start: Start, tmp_path: Path) -> None:
    flag = tmp_path / "end"
    process = start(
        "(setsid bash -c 'echo daemon $$ runs; exec sleep 1000' &);"
        f"until [ -e {flag} ]; do sleep 0.02; done; exit 3"
    )
    says(process, "runs")
    daemon = int(process.log.read_text().split()[1])
    assert alive(daemon)
    flag.touch()
    until("it has ended", lambda: not process.running)
    assert process.exit_code == 3
    assert not alive(daemon)


@pytest.mark.parametrize("command", ["/nowhere/to/be/found", "/etc/passwd"])
def test_a_command_that_cannot_be_started_is_named(tmp_path: Path, command: str) -> None:
    with pytest.raises(ClusterError, match=f"cannot start {command}: {command}: ") as caught:
        SupervisedProcess([command], env=ENV, log=tmp_path / "p.log", grace_s=1)
    assert caught.value.where == str(tmp_path / "p.log")


def test_a_process_gets_its_grace_to_end_by_itself(start: Start) -> None:
    process = start(READY_AND_POLITE)
    says(process, "ready")
    assert process.stop()
    assert process.exit_code == 5


def test_a_process_that_ignores_sigterm_is_killed_after_its_grace(start: Start) -> None:
    process = start(READY_AND_DEAF, grace_s=0.3)
    says(process, "ready")
    begin = time.monotonic()
    assert process.stop()
    assert time.monotonic() - begin >= 0.3
    assert process.exit_code == -signal.SIGKILL
    assert not alive(process.pid)


def test_a_deaf_process_that_must_end_at_once_gets_no_grace(start: Start) -> None:
    process = start(READY_AND_DEAF, grace_s=60.0)
    says(process, "ready")
    begin = time.monotonic()
    assert process.stop(at_once=True)
    assert time.monotonic() - begin < 10
    assert process.exit_code == -signal.SIGKILL
    assert not alive(process.pid)


def test_a_frozen_tree_is_ended_at_once_with_its_daemon(start: Start) -> None:
    process = start(WITH_DAEMON, grace_s=60.0)
    pids = tree(process)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    assert process.stop(at_once=True)
    assert all_gone(pids)
    until("the supervisor has followed", lambda: not alive(process.supervisor_pid))


def test_ending_at_once_what_has_ended_is_fine(start: Start) -> None:
    process = start("exit 3")
    until("it has ended", lambda: not process.running)
    assert process.stop(at_once=True)
    assert process.exit_code == 3


MAPS_MEMORY = """
import mmap, os, signal, sys
with open(sys.argv[1], "w+b") as file:
    file.truncate(4096)
    memory = mmap.mmap(file.fileno(), 4096)
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def shared_file() -> Iterator[Path]:
    """A name in shared memory; the file is removed in any case."""
    path = Path(f"/dev/shm/pdcache-test-{secrets.token_hex(4)}")
    yield path
    path.unlink(missing_ok=True)


def mapping(tmp_path: Path, path: Path) -> SupervisedProcess:
    process = SupervisedProcess(
        [sys.executable, "-c", MAPS_MEMORY, str(path)],
        env=ENV, log=tmp_path / "m.log", grace_s=5,
    )  # fmt: skip
    says(process, "ready")
    return process


def test_shared_memory_that_only_the_tree_used_is_removed(
    tmp_path: Path, shared_file: Path
) -> None:
    process = mapping(tmp_path, shared_file)
    assert shared_file.exists()
    assert process.stop()
    assert not shared_file.exists()


def test_shared_memory_that_somebody_else_uses_stays(tmp_path: Path, shared_file: Path) -> None:
    process = mapping(tmp_path, shared_file)
    with open(shared_file, "r+b") as file, mmap.mmap(file.fileno(), 4096):
        assert process.stop()
        assert shared_file.exists()


def test_a_child_holds_no_file_but_its_own_three(start: Start) -> None:
    """The end of the owner's socket would otherwise never be seen."""
    process = start("exec sleep 1000")
    until("it sleeps", lambda: command_of(process.pid) == "sleep")
    assert sorted(os.listdir(f"/proc/{process.pid}/fd")) == ["0", "1", "2"]


def test_a_child_has_the_environment_it_is_given_and_no_other(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOT_FOR_CHILDREN", "1")
    process = start("env; echo ready", GIVEN="here")
    says(process, "ready")
    log = process.log.read_text()
    assert "GIVEN=here" in log
    assert "NOT_FOR_CHILDREN" not in log


def test_a_log_is_appended_to_and_its_folder_made(tmp_path: Path) -> None:
    log = tmp_path / "new" / "folder" / "p.log"
    for word in ("first", "second"):
        process = SupervisedProcess(["echo", word], env=ENV, log=log, grace_s=1)
        says(process, word)
        process.stop()
    assert log.read_text() == "first\nsecond\n"


def test_without_an_owner_only_a_signal_ends_the_tree() -> None:
    command = [sys.executable, "-S", "-E", str(SUPERVISOR), "-1", "2", "--", "sleep", "1000"]
    with subprocess.Popen(command) as supervisor:
        (child,) = until("the child runs", lambda: descendants(supervisor.pid))
        supervisor.terminate()
        supervisor.wait(30)
        assert not alive(child)


def test_the_tail_of_a_log_is_its_last_lines_without_colours(tmp_path: Path) -> None:
    log = tmp_path / "p.log"
    log.write_bytes(b"".join(b"\x1b[31mline %d\x1b[0m\n" % i for i in range(100)) + b"\xff end")
    assert tail(log, 3) == "line 98\nline 99\n\ufffd end"
    log.write_bytes(b"".join(b"%-399d\n" % i for i in range(300)))
    assert len(tail(log, 250).splitlines()) == 250
    assert tail(tmp_path / "none.log") == ""
