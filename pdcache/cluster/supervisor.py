"""Program: run one process tree that ends with its owner, however the owner ends.

    python -S -E supervisor.py FD GRACE_S [--beside FILE] -- COMMAND...

FD is one end of a socket pair whose other end the owner holds: end of file means that the owner is
gone, kill -9 included. FD -1 means no owner: only a signal ends the tree. Reports on FD, a JSON
line each: ``{"supervisor": pid, "pid": pid}`` after the start, ``{"exit": code}`` at the end.
FILE is JSON, `argv`, `env` and `log` of a process that runs beside the command and ends with it;
when it ends by itself nobody minds.

Why its shape: with an owner it forks twice and leaves the process group, because a Ray worker kills
its direct children when it exits and the raylet kills a worker's process group. It stays in the
session, for Linux shares the cores between sessions first (sched(7), autogroup): one that is busy
on a core then starves its own threads on another, for a second and more, and Mooncake's clients are
busy while they wait for a holder. It is a child subreaper, so daemonised grandchildren come to it
and are found. The head of the tree gets SIGKILL from the kernel if the supervisor itself is killed.
Standard library only, so it starts in 30 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

SHARED_MEMORY = "/dev/shm"
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
REAP_LIMIT_S = 10.0
SOON_S, LATER_S = 5.0, 30.0
"""Between two looks at the shared memory in use: while a tree is young, and from then on."""

YOUNG_S = 60.0

libc = ctypes.CDLL(None)


class Tree:
    """The supervised process, whose pid is `head`, and all its descendants."""

    def __init__(self, head: int) -> None:
        self.exit_code: int | None = None
        self.shared_memory: set[int] = set()
        self.head = head

    def reap(self) -> None:
        """Collect every ended child, also those that were re-parented to us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.head:
                self.exit_code = os.waitstatus_to_exitcode(status)

    def end(self, grace_s: float) -> None:
        """SIGTERM to the head, ``grace_s`` for it to end, then SIGKILL to all that is left.

        Shared memory that only the tree used is removed with it.
        """
        self.note_shared_memory()
        if self.exit_code is None:
            _send([self.head], signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while self.exit_code is None and time.monotonic() < deadline:
            time.sleep(0.02)
            self.reap()
        deadline = time.monotonic() + REAP_LIMIT_S
        while (left := descendants(os.getpid())) and time.monotonic() < deadline:
            _send(left, signal.SIGKILL)
            time.sleep(0.02)
            self.reap()
        remove_shared_memory(self.shared_memory)

    def note_shared_memory(self) -> None:
        """Remember the shared-memory files the tree has in use: nobody else would remove them."""
        self.shared_memory |= shared_memory([os.getpid(), *descendants(os.getpid())])


def shared_memory(pids: list[int]) -> set[int]:
    """Inodes of the files of /dev/shm that these processes have mapped.

    Inodes, because a semaphore is mapped under a temporary name that is gone at once (glibc
    ``sem_open`` makes a file, maps it, and links it to its name).
    """
    found: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/maps", "rb") as maps:
            for line in maps:
                if b" /dev/shm/" in line:
                    found.add(int(line.split(None, 5)[4]))
    return found


def remove_shared_memory(inodes: set[int]) -> None:
    """Remove the files of /dev/shm with these inodes that no living process has mapped."""
    with contextlib.suppress(OSError):
        files = {entry.inode(): entry.path for entry in os.scandir(SHARED_MEMORY)}
        candidates = inodes & files.keys()
        if not candidates:
            return
        everyone = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
        for inode in candidates - shared_memory(everyone):
            with contextlib.suppress(OSError):
                os.unlink(files[inode])


def descendants(root: int) -> list[int]:
    """Living descendants of a process, zombies left out."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/{entry}/stat", "rb") as stat:
                text = stat.read()
            state, parent = text[text.rindex(b")") + 2 :].split()[:2]
            if state != b"Z":
                children.setdefault(int(parent), []).append(int(entry))
    found: list[int] = []
    queue = [root]
    while queue:
        own = children.get(queue.pop(), [])
        found += own
        queue += own
    return found


def spawn(command: list[str], env: dict[str, str] | None = None, output: int | None = None) -> int:
    """Start a command as the head of a tree; its pid.

    Args:
        env: its whole environment instead of this process's.
        output: descriptor that gets what it says.

    Raises:
        OSError: it cannot be started.
    """
    process = subprocess.Popen(
        command, env=env, stdout=output, stderr=output, preexec_fn=prepare_head
    )
    process.returncode = 0  # `Tree.reap` waits for it, so this object must not.
    return process.pid


def supervise(
    owner: socket.socket | None,
    grace_s: float,
    command: list[str],
    start: Callable[[list[str]], int] = spawn,
) -> None:
    """Run ``command`` until it ends, the owner goes, or a signal comes; then end all of it."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, notify = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
    asked_to_stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, frame: asked_to_stop.append(received))
    signal.signal(signal.SIGCHLD, lambda received, frame: None)
    try:
        tree = Tree(start(command))
    except OSError as error:
        _report(owner, {"failed": f"{command[0]}: {error.strerror}"})
        return
    _report(owner, {"supervisor": os.getpid(), "pid": tree.head})
    watched: list[int | socket.socket] = [wake] if owner is None else [wake, owner]
    order, old_at_s = "", time.monotonic() + YOUNG_S
    while tree.exit_code is None and not asked_to_stop:
        wait_s = SOON_S if time.monotonic() < old_at_s else LATER_S
        ready = select.select(watched, [], [], wait_s)[0]
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
        tree.reap()
        tree.note_shared_memory()
        if owner is not None and owner in ready and (order := _order(owner)):
            break
    tree.end(0.0 if order == "KILL" else grace_s)
    _report(owner, {"exit": tree.exit_code})


def _order(owner: socket.socket) -> str:
    """``STOP``, or ``KILL`` for at once; an owner that is gone wants the tree to end too."""
    try:
        message = owner.recv(64)
    except OSError:
        return "STOP"
    if not message or b"STOP" in message:
        return "STOP"
    return "KILL" if b"KILL" in message else ""


def _report(owner: socket.socket | None, message: dict[str, object]) -> None:
    if owner is not None:
        with contextlib.suppress(OSError):
            owner.sendall(json.dumps(message).encode() + b"\n")


def prepare_head() -> None:
    """What the head of a tree does before anything else: it dies with its supervisor."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setpgid(0, 0)


def _send(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def main() -> None:
    """Read the command line, detach from the owner, supervise."""
    split = sys.argv.index("--")
    (descriptor, grace_s, *beside), command = sys.argv[1:split], sys.argv[split + 1 :]
    owner = None
    if int(descriptor) >= 0:
        owner = socket.socket(fileno=int(descriptor))
        os.set_inheritable(owner.fileno(), False)
        if os.fork():
            os._exit(0)
        os.setpgid(0, 0)
        if os.fork():
            os._exit(0)
    if beside:
        _start_beside(beside[1])
    supervise(owner, float(grace_s), command)


def _start_beside(file: str) -> None:
    with open(file) as opened:
        what = json.load(opened)
    with open(what["log"], "ab") as log:
        spawn(what["argv"], what["env"], log.fileno())


if __name__ == "__main__":
    main()
