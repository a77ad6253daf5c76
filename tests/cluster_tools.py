"""What tests with real clusters share: the command line as a user runs it, and what is left after.

Everything a test cluster starts inherits its PDCACHE_HOME, which no other process has, so leftovers
are found without trusting pdcache's own book-keeping.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pdcache.cluster.supervisor import shared_memory
from pdcache.topology.facts import port_is_free

ROOT = Path(__file__).resolve().parents[1]
PDCACHE = str(Path(sys.executable).with_name("pdcache"))
TINY = ("--set", "model.path=tiny-random", "--set", "page_size=16")
SMALL = (*TINY, "--set", "prefill.workers=1")
CLEAN_S = 60.0
"""That an interrupted command may need."""


@dataclass
class Shell:
    """Runs ``pdcache`` commands under a home of its own."""

    home: Path
    shared_memory_before: frozenset[str] = field(
        default_factory=lambda: frozenset(os.listdir("/dev/shm"))
    )

    @property
    def env(self) -> dict[str, str]:
        """Environment of the commands."""
        env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        return env | {"PDCACHE_HOME": str(self.home)}

    def run(
        self, *args: str, limit_s: float = 400, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, also when Ctrl-C ends both: it has to clean up."""
        with subprocess.Popen(
            [PDCACHE, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=self.env | (env or {}), cwd=ROOT,
        ) as process:  # fmt: skip
            try:
                out, error = process.communicate(timeout=limit_s)
            except KeyboardInterrupt:
                process.communicate(timeout=CLEAN_S)
                raise
            finally:
                process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)

    def ok(self, *args: str, limit_s: float = 400) -> str:
        """Run a command that must exit 0; returns its stdout."""
        done = self.run(*args, limit_s=limit_s)
        assert done.returncode == 0, f"pdcache {' '.join(args)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *args: str, limit_s: float = 400) -> Any:
        """Run a command with --json that must exit 0; returns what it printed."""
        return json.loads(self.ok(*args, "--json", limit_s=limit_s))

    def fails(self, *args: str, limit_s: float = 120, env: dict[str, str] | None = None) -> str:
        """Run a command that must exit 1 without a traceback; returns its stderr."""
        done = self.run(*args, limit_s=limit_s, env=env)
        assert done.returncode == 1, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr.split("end of its log:")[0]
        return done.stderr

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start a command and return while it runs."""
        return subprocess.Popen(
            [PDCACHE, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self.env, cwd=ROOT,
        )  # fmt: skip

    def processes(self) -> list[psutil.Process]:
        """Every living process that inherited this home, but this test."""
        mark = f"PDCACHE_HOME={self.home}".encode()
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                if mark in environ and process.pid != os.getpid():
                    found.append(process)
        return found

    def listening(self) -> set[int]:
        """TCP ports on which those processes listen."""
        ports = set()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                ports |= {
                    c.laddr.port for c in process.net_connections("tcp") if c.status == "LISTEN"
                }
        return ports

    def assert_nothing_left(self, ports: set[int] | None = None) -> None:
        """No process, port, shared memory or temp folder of this home's clusters."""
        wait_for(lambda: not self.processes(), "all processes to be gone", limit_s=10)
        for port in ports or ():
            assert port_is_closed(port), f"port {port} is still open"
        used = shared_memory([int(entry) for entry in os.listdir("/proc") if entry.isdigit()])
        left = {
            entry.name
            for entry in os.scandir("/dev/shm")
            if entry.name not in self.shared_memory_before and entry.inode() not in used
        }
        assert not left, f"shared memory left: {left}"
        home = hashlib.blake2b(os.path.realpath(self.home).encode(), digest_size=4).hexdigest()
        scratch = Path("/tmp") / f"pdcache-{os.getuid()}-{home}"
        assert not scratch.exists(), f"temp folders left: {list(scratch.glob('*'))}"
        assert not list((self.home / "clusters").glob("*/cluster.json"))


def ray_token(folder: Path) -> dict[str, str]:
    """Ray's variables for token auth and a quick end; the token is a file in a folder."""
    path = folder / "token"
    path.write_text("0123456789abcdef" * 4)
    path.chmod(0o600)
    return {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def free_port() -> int:
    """A port nobody listens on now, below those that Linux gives to connections meanwhile."""
    while not port_is_free(port := random.randrange(23_000, 32_000)):
        pass
    return port


def port_of_this_process(port: int) -> bool:
    """It is free, and left alone by the other processes among which pytest-xdist spreads tests."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return port // 16 % processes == own and port_is_free(port)


def port_is_closed(port: int) -> bool:
    """Nobody accepts on it."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def wait_for(condition: Callable[[], bool], what: str, *, limit_s: float) -> None:
    """Poll a condition; an assertion error names what did not happen."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit_s} s for {what}"
        time.sleep(0.1)


def kill(pid: int) -> None:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)


def tree_of(pid: int) -> list[psutil.Process]:
    """A process and its descendants."""
    head = psutil.Process(pid)
    return [head, *head.children(recursive=True)]


@contextlib.contextmanager
def cluster(shell: Shell, *args: str) -> Iterator[dict[str, Any]]:
    """A cluster for a with block; afterwards it is down and nothing of it is left."""
    try:
        yield shell.json("up", *args)
        ports = shell.listening()
    finally:
        down = shell.run("down", "--all")
    assert down.returncode == 0, down.stderr
    shell.assert_nothing_left(ports)
