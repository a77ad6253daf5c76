"""Program: an SGLang server that has imported everything, and forks for whoever asks.

    python -m pdcache.sglang_cpu.preloaded SOCKET ROOM

A request (`pdcache.cluster.preload`) comes with the descriptors of its owner and of a log. A fork
of this process becomes the supervisor of the tree, and a fork of that the server, so each has the
parent, the signals and the end that it would have as a command. ROOM is where they write their
command lines. This process has one thread and has never computed: a fork has no other threads, and
keeps the locks that they held.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from pdcache.cluster.preload import Start
from pdcache.cluster.supervised import SUPERVISOR
from pdcache.cluster.supervisor import prepare_head, supervise

MODULES = (
    "sglang.launch_server",
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.detokenizer_manager",
)
"""What a server imports before it does anything; Mooncake's modules start threads, so they wait."""

TITLE = "pdcache::preloaded"
REQUEST_BYTES = 1 << 18


@dataclass
class Request:
    """A tree to be started, its owner, and the descriptors to write to."""

    start: Start
    owner: socket.socket
    output: int


def main() -> None:
    """Listen first, for who asks early waits, then import; return in the forks only."""
    path = sys.argv[1]
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(64)
        gc.disable()  # It would look a dozen times at all that is there by then.
        for name in MODULES:
            importlib.import_module(name)
        gc.enable()
        # To look at an object is to write to it, and a fork would then have its own copy.
        gc.collect()
        gc.freeze()
        _show(TITLE, TITLE)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        request = _fork_for_each(listener)
    _become(request)


def _fork_for_each(listener: socket.socket) -> Request:
    """Serve requests for ever; what it returns is that of the fork which it returns in."""
    while True:
        connection, _ = listener.accept()
        with connection:
            request = _receive(connection)
            if request is None:
                continue
            if os.fork() == 0:
                return request
        request.owner.close()
        os.close(request.output)


def _receive(connection: socket.socket) -> Request | None:
    """The request; None when who made it is gone or waits no longer."""
    data, descriptors, _, _ = socket.recv_fds(connection, REQUEST_BYTES, 2)
    if len(descriptors) != 2:
        return None
    owner = socket.socket(fileno=descriptors[0])
    if select.select([owner], [], [], 0)[0]:
        owner.close()
        os.close(descriptors[1])
        return None
    return Request(Start(**json.loads(data)), owner, descriptors[1])


def _become(request: Request) -> None:
    """Supervise a server; in the server's own process this runs it, and ends with its end."""
    start = request.start
    os.setpgid(0, 0)
    for standard in (1, 2):
        os.dup2(request.output, standard)
    os.close(request.output)
    before = _open_descriptors()
    words = [sys.executable, str(SUPERVISOR), str(request.owner.fileno()), str(start.grace_s)]
    _show(" ".join([*words, "--", *start.argv]))

    def fork(command: list[str]) -> int:
        pid = os.fork()
        if pid == 0:
            prepare_head()
            for number in _open_descriptors() - before | {request.owner.fileno()}:
                os.close(number)
            request.owner.detach()
            _serve(command, start.env)
        return pid

    supervise(request.owner, start.grace_s, start.argv, fork)
    # Nothing of what a server does at its end is this process's.
    os._exit(0)


def _serve(command: list[str], env: dict[str, str]) -> None:
    """Do what `python -m MODULE ARGUMENTS` would."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    importlib.invalidate_caches()  # Folders of the path may have come since.
    _show(" ".join(command))
    module, sys.argv = command[2], command[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit(0)


def _open_descriptors() -> set[int]:
    """Descriptors of this process, but for the one that lists them."""
    with os.scandir("/proc/self/fd") as entries:
        found = {int(entry.name) for entry in entries}
    return {number for number in found if Path(f"/proc/self/fd/{number}").exists()}


def _show(title: str, name: str = Path(sys.executable).name) -> None:
    """Let `ps` and `top` show it; SGLang has setproctitle for its own processes."""
    from setproctitle import setproctitle

    setproctitle(title)
    Path("/proc/self/comm").write_text(name)


if __name__ == "__main__":
    main()
