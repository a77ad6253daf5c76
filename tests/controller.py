"""What a cluster's controller says, asked in one process that stays connected.

Ray joins one cluster a process, and joining takes seconds; a test that looks often asks here.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from types import TracebackType
from typing import Any

from pdcache.cluster.events import Event
from pdcache.cluster.states import ClusterStatus
from tests.cluster_tools import Shell
from tests.dialogues import Running

LIMIT_S = 60

_ANSWER = """
import pickle, sys
from pdcache.cluster.client import ClusterClient
from pdcache.cluster.record import the_record
client = ClusterClient(the_record(sys.argv[1]))
for line in sys.stdin:
    try:
        answer = getattr(client, line.strip())()
    except Exception as error:
        answer = error
    data = pickle.dumps(answer)
    sys.stdout.buffer.write(len(data).to_bytes(8, "big") + data)
    sys.stdout.buffer.flush()
"""


class Controller:
    """The controller of a running cluster, one question after the other."""

    def __init__(self, shell: Shell, name: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", _ANSWER, name], env=shell.env, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Controller:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.communicate(timeout=LIMIT_S)

    def status(self) -> ClusterStatus:
        """How the cluster is doing."""
        status: ClusterStatus = self._ask("status")
        return status

    def running(self) -> Running:
        """Plan and keys as they are now."""
        desired = self._ask("desired")
        return Running(desired.plan, desired.keys)

    def events(self) -> list[Event]:
        """What happened so far."""
        events: list[Event] = self._ask("events")
        return events

    def _ask(self, method: str) -> Any:
        asked, told = self._child.stdin, self._child.stdout
        assert asked is not None and told is not None
        asked.write(f"{method}\n".encode())
        asked.flush()
        size = told.read(8)
        assert len(size) == 8, "the process that asks the controller ended"
        answer = pickle.loads(told.read(int.from_bytes(size, "big")))
        if isinstance(answer, Exception):
            raise answer
        return answer
