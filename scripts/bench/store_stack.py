"""A Mooncake store for one client: master and holder, started and ended as pdcache does it."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.request import urlopen

from pdcache.cluster.supervised import SupervisedProcess, tail
from pdcache.store.mooncake_commands import Master, holder_argv, master_argv
from pdcache.topology.stores import MooncakeStore

ADDRESS = "127.0.0.1"
PROGRAMS = Path(sys.executable).parent
START_LIMIT_S = 120.0


@dataclass(frozen=True)
class Way:
    """Where the objects are, and how the client reaches them.

    Args:
        segment: `holder`, a process of its own over TCP, as pdcache plans it; `shared_memory`, the
            same process, which maps the client's host pool (SGLang's `standalone_storage`);
            `client`, no holder: the client's own memory.
        env: variables of Mooncake for client and holder.
    """

    name: str
    segment: Literal["holder", "shared_memory", "client"] = "holder"
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stack:
    """A running store: options for SGLang's `MooncakeStore`, and the holder's process."""

    options: dict[str, object]
    holder_pid: int | None


@contextmanager
def running_store(way: Way, size_bytes: int, folder: Path) -> Iterator[Stack]:
    """A master, and a holder unless the client holds the objects; both end with the block."""
    store = MooncakeStore(segment_gb=size_bytes / 1e9)
    master = Master(ADDRESS, *free_ports(2))
    options: dict[str, object] = {
        "master_server_address": master.rpc,
        "master_metrics_port": master.metrics_port,
        "metadata_server": "P2PHANDSHAKE",
        "local_hostname": ADDRESS,
        "protocol": "tcp",
        "global_segment_size": size_bytes if way.segment == "client" else 0,
        "check_server": False,
        "extra_backend_tag": "pdcache-0123456789ab",
    }
    pid = None
    env = {**os.environ, "MC_LOG_LEVEL": "ERROR", **way.env}
    with ExitStack() as started:
        argv = master_argv(str(PROGRAMS / "mooncake_master"), master, store)
        own = start(started, argv, env, folder / "master.log")
        until(own, lambda: healthy(master.url))
        if way.segment != "client":
            (port,) = free_ports(1)
            binary = str(PROGRAMS / "mooncake_client")
            argv = holder_argv(binary, master.rpc, ADDRESS, port, store, "cpu")
            own = start(started, argv, env, folder / "holder.log")
            until(own, lambda: listens(port))
            pid = own.pid
            if way.segment == "shared_memory":
                options |= {
                    "standalone_storage": True, "client_server_address": f"{ADDRESS}:{port}",
                }  # fmt: skip
        yield Stack(options, pid)


def start(
    started: ExitStack, argv: tuple[str, ...], env: Mapping[str, str], log: Path
) -> SupervisedProcess:
    """A process that is ended when `started` is, or with this process, however that ends."""
    own = SupervisedProcess(argv, env=env, log=log, grace_s=5.0)
    started.callback(own.stop)
    return own


def until(own: SupervisedProcess, ready: Callable[[], bool]) -> None:
    """Wait for a process; the end of its log when it does not come up."""
    deadline = time.monotonic() + START_LIMIT_S
    while not ready():
        if not own.running or time.monotonic() > deadline:
            raise SystemExit(f"does not come up:\n{tail(own.log)}")
        time.sleep(0.1)


def healthy(url: str) -> bool:
    """Whether a master answers."""
    try:
        with urlopen(f"{url}/health", timeout=2):
            return True
    except OSError:
        return False


def listens(port: int) -> bool:
    """Whether somebody takes connections."""
    try:
        with socket.create_connection((ADDRESS, port), timeout=2):
            return True
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    """Ports of the ephemeral range that nobody has at this moment."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for own in sockets:
            own.bind((ADDRESS, 0))
        return [own.getsockname()[1] for own in sockets]
