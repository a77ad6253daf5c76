"""How a process is asked for that is a fork of a server which has imported everything already.

A server on a CPU imports for eight seconds of a core before it does anything of its own. Beside the
head of our own Ray runs one (`pdcache.sglang_cpu.preloaded`), which begins while Ray does; servers
are forks of it, those that replace a dead one too. Whoever is not answered starts the command.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pdcache.plan.process import Process

MODULE = "pdcache.sglang_cpu.preloaded"
SERVER = ("-m", "sglang.launch_server")

LATE = frozenset({"SGLANG_HICACHE_DECODE_OFFLOAD_STRIDE"})
"""Variables in which a fork may differ: SGLang reads them when a server starts, not at import."""

ROOM = " " * 8192
"""Last argument of a preloaded server: its forks write their own command line over it."""


@dataclass(frozen=True)
class Start:
    """A tree that is to be started: command, whole environment, seconds from SIGTERM to SIGKILL."""

    argv: list[str]
    env: dict[str, str]
    grace_s: float


def preloaded_socket(process: Process, temp: str) -> Path | None:
    """Where a server listens that this process may be a fork of; None when it may not be.

    It is the same interpreter with the same environment, but for `LATE`, on a CPU: a CUDA context
    does not outlive a fork.
    """
    if process.argv[:3] != (sys.executable, *SERVER):
        return None
    if process.env.get("SGLANG_USE_CPU_ENGINE") != "1":
        return None
    env = sorted((name, value) for name, value in process.env.items() if name not in LATE)
    key = hashlib.blake2b(json.dumps(env).encode(), digest_size=4).hexdigest()
    return Path(temp) / f"preloaded-{key}.sock"


def server_to_preload(processes: Iterable[Process], temp: str) -> tuple[Process, Path] | None:
    """The first process of a plan that can be a fork, and the socket for it and those like it."""
    found = ((process, preloaded_socket(process, temp)) for process in processes)
    return next(((process, path) for process, path in found if path is not None), None)


def preload_command(path: Path) -> list[str]:
    """The command of a server that is preloaded and listens there."""
    return [sys.executable, "-m", MODULE, str(path), ROOM]


def ask(path: Path, start: Start, owner: int, output: int) -> bool:
    """Ask for a supervised fork, with the descriptors of its owner and of its log.

    False when nobody is there; otherwise it reports to the owner as `supervisor` does, or its end
    of that socket is closed.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(str(path))
            socket.send_fds(connection, [json.dumps(asdict(start)).encode()], [owner, output])
        except OSError:
            return False
    return True
