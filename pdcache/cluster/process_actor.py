"""Ray actor that owns one process of a plan. When the actor ends, the process ends."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from pdcache.cluster.environment import process_environment
from pdcache.cluster.preload import preloaded_socket
from pdcache.cluster.pulse import NOT_ASKED, Pulse, Silence
from pdcache.cluster.record import write_secret
from pdcache.cluster.sigterm import end_at_sigterm
from pdcache.cluster.supervised import SupervisedProcess, tail
from pdcache.cluster.tree import Tree, TreeState
from pdcache.plan.process import Process
from pdcache.sglang.keys import Keys
from pdcache.sglang.keys_plugin import KEYS_ENV

LOOK_S = 0.25


@dataclass(frozen=True)
class Vitals:
    """What the actor knows of its process; ``silence`` is what `ProcessActor.changed` heard."""

    actor_pid: int
    pid: int | None
    supervisor_pid: int | None
    running: bool
    exit_code: int | None
    incarnation: int
    tree: TreeState
    silence: Silence = NOT_ASKED


class ProcessActor:
    """One worker, store, or gateway process on this actor's node.

    Its methods may be called from several threads: `changed` waits in one of them.
    """

    def __init__(self, cluster_id: str, process: Process, logs: str, temp: str, keys: Keys) -> None:
        end_at_sigterm()
        self._process = process
        self._id = cluster_id
        self._log = Path(logs) / f"{process.name}.log"
        self._temp = temp
        self._keys = keys
        self._supervised: SupervisedProcess | None = None
        self._pulse: Pulse | None = None
        self._incarnation = 0
        self._tree = Tree()
        self._lock = threading.RLock()

    def start(self, incarnation: int, process: Process) -> Vitals:
        """Start the process; the log of the incarnation before is kept as ``.previous``.

        Raises:
            ClusterError: the command cannot be started, or a folder or file cannot be made.
        """
        with self._lock:
            return self._start(incarnation, process)

    def _start(self, incarnation: int, process: Process) -> Vitals:
        self.stop()
        self._process = process
        Path(self._temp).mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._log.exists():
            self._log.replace(self._log.with_suffix(".previous.log"))
        for folder in self._process.folders:
            Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        for path, text in self._process.files.items():
            self.write_file(path, text)
        if (keys_file := process.env.get(KEYS_ENV)) is not None:
            write_secret(Path(keys_file), self._keys.text())
        self._incarnation = incarnation
        self._supervised = SupervisedProcess(
            self._process.argv,
            env=process_environment(process, self._id, os.environ),
            log=self._log,
            grace_s=self._process.grace_s,
            preloaded=preloaded_socket(process, self._temp),
        )
        self._pulse = Pulse(self._process, self._keys)
        return self.vitals()

    def vitals(self) -> Vitals:
        """Pid, and whether it runs; asks nobody."""
        own, pulse = self._supervised, self._pulse
        return Vitals(
            actor_pid=os.getpid(),
            pid=own.pid if own else None,
            supervisor_pid=own.supervisor_pid if own else None,
            running=own.running if own else False,
            exit_code=own.exit_code if own else None,
            incarnation=self._incarnation,
            tree=self._tree.look(own.pid) if own else TreeState(),
            silence=pulse.known if pulse else NOT_ASKED,
        )

    def changed(self, known: Vitals, limit_s: float) -> Vitals:
        """The vitals once they differ from those that are known, or after ``limit_s``.

        The process is asked for its health meanwhile, from here: so a controller of many processes
        hears of those that are not well, and asks nobody that is.
        """
        deadline = time.monotonic() + limit_s
        while (now := self.vitals()) == known and time.monotonic() < deadline:
            pulse = self._pulse
            # Who is frozen answers nothing, and must be seen to go on.
            if pulse is None or now.tree.frozen or pulse.look() == known.silence:
                time.sleep(LOOK_S)
        return now

    def stop(self, *, at_once: bool = False) -> bool:
        """End the process; True when nothing of it is left.

        Args:
            at_once: without the time that it is given to end by itself.
        """
        with self._lock:
            own, self._supervised = self._supervised, None
            pulse, self._pulse = self._pulse, None
            if pulse is not None:
                pulse.close()
            return own.stop(at_once=at_once) if own else True

    def log_tail(self, lines: int) -> str:
        """The last lines of the log."""
        return tail(self._log, lines)

    def write_file(self, path: str, text: str) -> None:
        """Write a file on this node by rename, so that no reader sees half of it."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        part.write_text(text)
        part.rename(target)
