"""The owner's side of the supervisor: start a process tree, know its state, end it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pdcache.cluster.preload import Start, ask
from pdcache.errors import ClusterError

SUPERVISOR = Path(__file__).with_name("supervisor.py")
START_LIMIT_S = 20.0
PRELOADED_LIMIT_S = 40.0
"""A preloaded server may be importing still."""

LINE_BYTES = 500
"""Bytes that a line of a log is taken to have when its last lines are read."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class SupervisedProcess:
    """A process tree that ends when this object's process ends, or when it is told to.

    Args:
        argv: the command.
        env: its whole environment.
        log: file that gets its output, appended.
        grace_s: seconds between SIGTERM and SIGKILL.
        preloaded: socket of a server that can be forked instead (`preload`); without an answer
            from it the command is started.

    Raises:
        ClusterError: the command could not be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        grace_s: float,
        preloaded: Path | None = None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.grace_s = grace_s
        self.exit_code: int | None = None
        start = Start(list(argv), dict(env), grace_s)
        first = None
        if preloaded is not None and preloaded.exists():
            first = self._first_report(start, preloaded)
            if first is None or "pid" not in first:
                with open(log, "a") as output:
                    print("pdcache: the preloaded server does not answer; importing", file=output)
        if first is None or "pid" not in first:
            first = self._first_report(start, None)
        if first is None or "pid" not in first:
            reason = (first or {}).get("failed", "the supervisor did not report")
            raise ClusterError(f"cannot start {argv[0]}: {reason}.", where=str(log))
        self.pid = int(str(first["pid"]))
        self.supervisor_pid = int(str(first["supervisor"]))

    @property
    def running(self) -> bool:
        """Whether the head of the tree still runs."""
        if self.exit_code is None and self._socket.fileno() >= 0:
            self._note(self._next_report(0.0))
        return self.exit_code is None and self._socket.fileno() >= 0

    def stop(self, *, at_once: bool = False) -> bool:
        """End the tree; True when the supervisor confirmed that nothing of it is left.

        Args:
            at_once: SIGKILL without ``grace_s`` first.
        """
        if self._socket.fileno() < 0:
            return True
        with contextlib.suppress(OSError):
            self._socket.sendall(b"KILL" if at_once else b"STOP")
        deadline = time.monotonic() + self.grace_s + 12.0
        while self.running and time.monotonic() < deadline:
            self._note(self._next_report(max(0.0, deadline - time.monotonic())))
        ended = not self.running
        self._socket.close()
        return ended

    def _first_report(self, start: Start, preloaded: Path | None) -> Mapping[str, object] | None:
        """Start the tree anew; who was asked before and is late finds that nobody waits for it."""
        self._buffer = b""
        self._socket, theirs = socket.socketpair()
        with theirs, open(self.log, "ab") as output:
            if preloaded is None:
                _launch(start, theirs.fileno(), output.fileno())
            elif not ask(preloaded, start, theirs.fileno(), output.fileno()):
                self._socket.close()
                return None
        first = self._next_report(START_LIMIT_S if preloaded is None else PRELOADED_LIMIT_S)
        if first is None or "pid" not in first:
            self._socket.close()
        return first

    def _note(self, report: Mapping[str, object] | None) -> None:
        if report is not None and "exit" in report:
            code = report["exit"]
            self.exit_code = -9 if code is None else int(str(code))

    def _next_report(self, wait_s: float) -> Mapping[str, object] | None:
        """The next JSON line; ``{"exit": …}`` also when the supervisor itself is gone."""
        deadline = time.monotonic() + wait_s
        while b"\n" not in self._buffer:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._socket], [], [], left)[0]:
                return None
            try:
                data = self._socket.recv(4096)
            except OSError:
                data = b""
            if not data:
                return {"exit": None}
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        report: Mapping[str, object] = json.loads(line)
        return report


def _launch(start: Start, owner: int, output: int) -> None:
    command = [sys.executable, "-S", "-E", str(SUPERVISOR), str(owner), str(start.grace_s)]
    launcher = subprocess.Popen(
        [*command, "--", *start.argv],
        env=start.env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(owner,),
        cwd="/",
    )  # fmt: skip
    launcher.wait(START_LIMIT_S)


def tail(log: Path, lines: int = 30) -> str:
    """The last lines of a log file without terminal colours; empty when there is none."""
    limit_bytes = max(64_000, LINE_BYTES * lines)
    try:
        with open(log, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - limit_bytes))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(_COLOURS.sub("", text).splitlines()[-lines:])
