"""A fork of a preloaded server is what its command would be, with the installed SGLang imported."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pdcache.cluster import supervised
from pdcache.cluster.preload import preload_command
from pdcache.cluster.supervised import SUPERVISOR, SupervisedProcess
from pdcache.cluster.supervisor import descendants
from pdcache.sglang_cpu import pythonpath_folder, worker_environment
from tests.real_processes import alive, all_gone, until

TOLD = """
import ctypes, json, os, random, signal, sys, threading
death = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(death))
files = {}
for number in sorted(map(int, os.listdir("/proc/self/fd"))):
    try:
        files[number] = os.readlink(f"/proc/self/fd/{number}").rpartition("/")[0]
    except OSError:
        pass
told = {
    "argv": sys.argv, "env": dict(os.environ), "path": sys.path, "cwd": os.getcwd(),
    "name": __name__, "comm": open("/proc/self/comm").read(), "flags": str(sys.flags),
    "files": files, "dies with its parent": death.value,
    "leads a group": os.getpgid(0) == os.getpid(), "session": os.getsid(0),
    "niceness": os.nice(0), "threads": threading.active_count(),
    "signals": {name: str(signal.getsignal(getattr(signal, name)))
                for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGCHLD", "SIGPIPE")},
    "unbuffered": sys.stdout.write_through, "errors": str(signal.set_wakeup_fd(-1)),
}
own = {
    "random": random.random(), "command line": open("/proc/self/cmdline").read(),
    "sglang": "sglang.srt.managers.scheduler" in sys.modules,
}
print(json.dumps([told, own]), flush=True)
if "exit" in sys.argv:
    sys.exit(7)
signal.pause()
"""

Start = Callable[..., SupervisedProcess]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A CPU worker's environment, whose path ends with a folder that is not there yet."""
    folder = tmp_path_factory.mktemp("modules") / "later"
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = os.pathsep.join([str(pythonpath_folder()), str(folder)])
    return own | worker_environment() | {
        "PYTHONPATH": path, "SPT_NOENV": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


@contextlib.contextmanager
def preloaded(folder: Path, env: dict[str, str]) -> Iterator[tuple[Path, int]]:
    """The socket and the pid of a server that is preloaded beside another program."""
    path, file = folder / "p.sock", folder / "preloaded.json"
    what = {"argv": preload_command(path), "env": env, "log": str(folder / "preloaded.log")}
    file.write_text(json.dumps(what))
    command = [sys.executable, "-S", "-E", str(SUPERVISOR), "-1", "1", "--beside", str(file)]
    with subprocess.Popen([*command, "--", "sleep", "1000"], cwd="/") as supervisor:
        try:
            until("it listens", path.exists)
            yield path, next(pid for pid in descendants(supervisor.pid) if is_python(pid))
        finally:
            supervisor.terminate()
            left = descendants(supervisor.pid)
    assert all_gone(left)


def is_python(pid: int) -> bool:
    """Whether a process runs this interpreter."""
    return os.path.samefile(f"/proc/{pid}/exe", sys.executable)


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]
) -> Iterator[tuple[Path, int]]:
    """One for those tests that leave it as it is; the first of them asks while it imports."""
    with preloaded(tmp_path_factory.mktemp("server"), env) as found:
        yield found


@pytest.fixture
def start(tmp_path: Path, env: dict[str, str]) -> Iterator[Start]:
    """Start the module that tells; whatever is left of it ends with the test."""
    running: list[SupervisedProcess] = []
    folder = Path(env["PYTHONPATH"].split(os.pathsep)[-1])
    folder.mkdir(exist_ok=True)
    (folder / "told.py").write_text(TOLD)

    def run(path: Path | None, *words: str, **more: str) -> SupervisedProcess:
        argv = [sys.executable, "-m", "told", *words]
        log = tmp_path / f"{len(running)}.log"
        own = SupervisedProcess(argv, env=env | more, log=log, grace_s=5, preloaded=path)
        running.append(own)
        return own

    yield run
    for own in running:
        own.stop()


def last_line(log: Path, begin: str) -> str | None:
    """The last line of a log once it is whole and begins so."""
    *_, line, rest = ["", *log.read_text().split("\n")]
    return line if line.startswith(begin) and not rest else None


def open_files(pid: int) -> dict[int, str]:
    """What a process has open, by number."""
    return {int(one.name): os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir()}


def told(own: SupervisedProcess) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the module said."""
    both, other = json.loads(until("it tells", lambda: last_line(own.log, "[{")))
    return both, other


def test_a_fork_has_all_that_its_command_would_have(server: tuple[Path, int], start: Start) -> None:
    late = {"SGLANG_HICACHE_DECODE_OFFLOAD_STRIDE": "128"}
    words = ("--port", "1", "two words")
    forked, plain = start(server[0], *words, **late), start(None, *words, **late)
    (as_fork, own), (as_command, other) = told(forked), told(plain)
    # Imports may leave files open, as they would in a server that imports by itself.
    imported = {str(number) for number in open_files(server[1]) if number > 2}
    as_fork["files"] = {no: of for no, of in as_fork["files"].items() if no not in imported}
    assert as_fork == as_command
    assert (own["sglang"], other["sglang"]) == (True, False)
    assert (
        own["command line"].rstrip("\0").split() == other["command line"].replace("\0", " ").split()
    )


def test_it_has_one_thread_and_holds_its_own_files_only(
    server: tuple[Path, int], start: Start
) -> None:
    path, pid = server
    told(start(path))
    assert len(os.listdir(f"/proc/{pid}/task")) == 1
    files = open_files(pid).values()
    assert len([one for one in files if one.startswith("socket:")]) == 1, files


def test_two_forks_do_not_draw_the_same_numbers(server: tuple[Path, int], start: Start) -> None:
    assert told(start(server[0]))[1]["random"] != told(start(server[0]))[1]["random"]


def test_the_exit_code_of_a_fork_is_reported(server: tuple[Path, int], start: Start) -> None:
    own = start(server[0], "exit")
    until("it has ended", lambda: not own.running)
    assert own.exit_code == 7
    until("nothing of it is left", lambda: not descendants(server[1]))


def test_a_fork_ends_when_it_is_told_to(server: tuple[Path, int], start: Start) -> None:
    own = start(server[0])
    told(own)
    assert own.stop()
    assert own.exit_code == -signal.SIGTERM
    until("its supervisor has followed", lambda: not alive(own.supervisor_pid))


def test_a_fork_dies_with_its_supervisor(server: tuple[Path, int], start: Start) -> None:
    own = start(server[0])
    told(own)
    os.kill(own.supervisor_pid, signal.SIGKILL)
    until("it is gone", lambda: not alive(own.pid))
    until("the owner has noticed", lambda: not own.running)


def test_a_fork_ends_with_its_owner(server: tuple[Path, int], start: Start) -> None:
    own = start(server[0])
    told(own)
    own._socket.close()
    until("all of it is gone", lambda: all_gone([own.pid, own.supervisor_pid]))


def test_forks_outlive_the_preloaded_server_and_later_ones_are_commands(
    tmp_path: Path, env: dict[str, str], start: Start
) -> None:
    with preloaded(tmp_path, env) as (path, pid):
        first = start(path)
        assert told(first)[1]["sglang"]
        os.kill(pid, signal.SIGKILL)
        until("it is gone", lambda: not alive(pid))
        second = start(path)
        assert not told(second)[1]["sglang"]
        assert "the preloaded server does not answer" in second.log.read_text()
        assert first.running
        assert first.stop()


def test_one_that_does_not_answer_starts_nothing_later(
    tmp_path: Path, env: dict[str, str], start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with preloaded(tmp_path, env) as (path, pid):
        told(start(path))
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(supervised, "PRELOADED_LIMIT_S", 0.5)
        own = start(path)
        assert not told(own)[1]["sglang"]
        os.kill(pid, signal.SIGCONT)
        after = start(path)
        assert told(after)[1]["sglang"]
        assert own.log.read_text().count("[{") == 1


def test_nobody_there_is_no_hindrance(tmp_path: Path, start: Start) -> None:
    assert not told(start(tmp_path / "nobody.sock"))[1]["sglang"]
