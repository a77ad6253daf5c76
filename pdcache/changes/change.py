"""A change as data: its steps, how far it is, and how it is taken back."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pdcache.errors import ClusterError
from pdcache.plan.process import Plan, Process
from pdcache.topology.schema import Topology


class StepState(StrEnum):
    """How far one step is."""

    TODO = "TODO"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"


class ChangeState(StrEnum):
    """How far a change is. FAILED waits for ``--resume`` or ``--rollback``."""

    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    ROLLED_BACK = "ROLLED_BACK"


@dataclass
class Step:
    """One idempotent action on one server.

    Attributes:
        action: a name of `pdcache.changes.actions`.
        process: the process afterwards, as the plan will have it; of a server that spans nodes
            that of rank 0.
        before: the process as it was; None when the change adds it.
        others: the further ranks of its server, afterwards.
        seconds: how long it took.
    """

    action: str
    process: Process
    before: Process | None = None
    others: tuple[Process, ...] = ()
    state: StepState = StepState.TODO
    seconds: float = 0.0

    @property
    def processes(self) -> tuple[Process, ...]:
        """All processes of the server, that of rank 0 first."""
        return (self.process, *self.others)

    def __str__(self) -> str:
        return f"{self.action} {self.process.name}"


@dataclass
class Change:
    """One change of a live cluster.

    Attributes:
        title: what it does, for people.
        plan: the plan once it is done, with its topology.
        reason: why it failed.
        stopped: servers that were out of service before it.
    """

    title: str
    steps: list[Step]
    plan: Plan
    topology: Topology
    before: tuple[Plan, Topology]
    limit_s: float = 600.0
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    state: ChangeState = ChangeState.RUNNING
    reason: str | None = None
    rolling_back: bool = False
    stopped: frozenset[str] = frozenset()

    @property
    def is_open_failure(self) -> bool:
        """It stopped in the middle."""
        return self.state is ChangeState.FAILED

    def verdict(self) -> str:
        """One line on how far it is."""
        done = sum(step.state is StepState.DONE for step in self.steps)
        text = f"{self.title}: {self.state.value.lower()} after {done} of {len(self.steps)} steps"
        return f"{text} ({self.reason})" if self.reason else text

    def refuse_another(self) -> None:
        """Only one change at a time, and a failed one is finished first.

        Raises:
            ClusterError: this change runs, or failed.
        """
        if self.state is ChangeState.RUNNING:
            raise ClusterError(
                f"another change is running ({self.verdict()}).",
                remedy="Wait for it: `pdcache change` shows how far it is.",
            )
        if self.is_open_failure:
            raise ClusterError(
                f"the last change failed and is not finished ({self.verdict()}).",
                remedy="`pdcache change --resume` goes on with it, `pdcache change --rollback` "
                "takes it back.",
            )

    def as_json(self) -> dict[str, Any]:
        """The change under the key names of ``change --json``."""
        return {
            "id": self.id,
            "title": self.title,
            "state": self.state.value,
            "reason": self.reason,
            "rolling_back": self.rolling_back,
            "steps": [
                {
                    "action": step.action,
                    "process": step.process.name,
                    "state": step.state.value,
                    "seconds": step.seconds,
                }
                for step in self.steps
            ],
        }
