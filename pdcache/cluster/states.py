"""The words for how a process and a cluster are doing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from pdcache.changes.change import Change


class ProcessState(StrEnum):
    """How one process is doing."""

    PENDING = "PENDING"
    STARTING = "STARTING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DEAD = "DEAD"
    STOPPED = "STOPPED"


class ClusterState(StrEnum):
    """How a cluster is doing. It is UP only after its proof."""

    STARTING = "STARTING"
    UP = "UP"
    DEGRADED = "DEGRADED"
    DOWN = "DOWN"
    FAILED = "FAILED"


@dataclass
class ProcessStatus:
    """One process as ``status --json`` shows it.

    ``incarnation`` counts its starts from 1; ``restarts`` those that nobody asked for. ``held``
    says why a worker is kept out of the gateway; ``log_tail`` is the end of the log of an
    incarnation that died.
    """

    name: str
    role: str
    url: str | None
    state: ProcessState = ProcessState.PENDING
    pid: int | None = None
    supervisor_pid: int | None = None
    actor_pid: int | None = None
    incarnation: int = 0
    restarts: int = 0
    started_in_s: float | None = None
    reason: str | None = None
    held: str | None = None
    log_tail: str | None = None


@dataclass
class ClusterStatus:
    """A cluster as ``status --json`` shows it.

    ``failed`` is the error that ended a bring-up; ``serving`` is set once the gateway has taken
    every worker.
    """

    name: str
    state: ClusterState
    endpoint: str | None = None
    workers: list[ProcessStatus] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    failed: str | None = None
    serving: bool = False
    change: Change | None = None
    controller: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The status under its JSON key names."""
        data = asdict(self)
        del data["failed"], data["serving"]
        data["change"] = self.change.as_json() if self.change else None
        return {"schema": 1, **data}
