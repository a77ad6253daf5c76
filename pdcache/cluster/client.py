"""What shell commands do with a cluster: create its controller, reach it, ask it."""

from __future__ import annotations

import contextlib
from typing import Any

from pdcache.changes.change import Change
from pdcache.cluster import desired
from pdcache.cluster.controller import CONTROLLER
from pdcache.cluster.desired import Desired
from pdcache.cluster.events import Event
from pdcache.cluster.head import connect
from pdcache.cluster.nodes import ray_nodes
from pdcache.cluster.record import Record, name_taken
from pdcache.cluster.states import ClusterState, ClusterStatus
from pdcache.errors import ClusterError
from pdcache.plan.process import Plan
from pdcache.sglang.keys import Keys
from pdcache.topology.facts import Node, local_node
from pdcache.topology.schema import Topology

CALL_LIMIT_S = 20.0
STOP_LIMIT_S = 60.0
CONNECT_LIMIT_S = 20.0


class ClusterClient:
    """A connection to one cluster's controller.

    Raises:
        ClusterError: its Ray cluster or its controller does not answer, or the controller there is
            that of another cluster.
    """

    def __init__(self, record: Record, *, limit_s: float = CONNECT_LIMIT_S) -> None:
        self.record = record
        self._ray = connect(record, limit_s=limit_s)
        if desired.is_others(record.name, record.id):
            raise ClusterError(
                f"cluster {record.name!r} is gone; another one has its name on that Ray cluster.",
                remedy=f"`pdcache down {record.name}` forgets this one and ends nothing.",
            )
        try:
            self._controller = self._ray.get_actor(CONTROLLER, namespace=record.namespace)
        except ValueError:
            raise ClusterError(
                f"cluster {record.name!r} has no controller.",
                remedy=f"`pdcache down {record.name}` cleans up; then bring it up again.",
            ) from None

    def status(self) -> ClusterStatus:
        """How the cluster is doing."""
        status: ClusterStatus = self._call("status")
        return status

    def desired(self) -> Desired:
        """What the cluster is meant to be: topology, plan, and the last change."""
        desired: Desired | None = self._call("desired")
        if desired is None:
            raise ClusterError(
                f"cluster {self.record.name!r} has not got a plan yet.",
                remedy=f"`pdcache down {self.record.name}`, then bring it up again.",
            )
        return desired

    def plan(self) -> Plan:
        """The plan that the cluster runs."""
        return self.desired().plan

    def nodes(self) -> tuple[Node, ...]:
        """The nodes it can use."""
        return ray_nodes(self._ray) if self.record.head_pid is None else (local_node(),)

    def keys(self) -> Keys:
        """The cluster's keys."""
        return self.desired().keys

    def deploy(self, plan: Plan, topology: Topology, keys: Keys) -> None:
        """Start to bring up a plan."""
        self._call("deploy", plan, topology, keys)

    def begin(self, change: Change) -> None:
        """Start a change, or take up one that failed."""
        self._call("begin", change)

    def events(self, since: int = 0) -> list[Event]:
        """What happened after the event of that number."""
        events: list[Event] = self._call("events", since)
        return events

    def mark_proved(self, proved: bool, reasons: list[str]) -> None:
        """Report the result of a proof."""
        self._call("mark_proved", proved, reasons)

    def stop(self) -> list[str]:
        """End all processes; returns the names that would not end."""
        names: list[str] = self._call("stop", limit_s=STOP_LIMIT_S)
        with contextlib.suppress(Exception):
            self._ray.kill(self._controller)
        return names

    def close(self) -> None:
        """Leave the Ray cluster."""
        self._ray.shutdown()

    def _call(self, method: str, *args: Any, limit_s: float = CALL_LIMIT_S) -> Any:
        try:
            return self._ray.get(getattr(self._controller, method).remote(*args), timeout=limit_s)
        except self._ray.exceptions.GetTimeoutError:
            raise ClusterError(
                f"the controller did not answer `{method}` within {limit_s:.0f} s.",
                where=self.record.name,
                remedy=f"If it stays so: `pdcache down {self.record.name}`.",
            ) from None
        except self._ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", error)
            raise ClusterError(f"the controller failed: {cause}", where=self.record.name) from None
        except self._ray.exceptions.RayError as error:
            raise ClusterError(
                f"the controller is gone: {str(error).splitlines()[0]}", where=self.record.name
            ) from None


def create_controller(record: Record, *, limit_s: float) -> ClusterClient:
    """Create the controller actor on the Ray cluster of a record.

    It begins with nothing, whatever a cluster of its name has left there.

    Raises:
        ClusterError: Ray cannot be reached, or does not place the actor within the limit, or
            another cluster has the name there.
    """
    from pdcache.cluster.controller import Controller

    ray = connect(record, limit_s=limit_s)
    try:
        actor = ray.remote(Controller).options(
            name=CONTROLLER, namespace=record.namespace, lifetime="detached", num_cpus=0,
            max_restarts=-1, max_task_retries=-1,
            resources={"node:__internal_head__": 0.001},
        ).remote(record.name, record.id)  # fmt: skip
    except ray.exceptions.ActorAlreadyExistsError:
        raise name_taken(record.name) from None
    desired.claim(record.name, record.id)
    try:
        ray.get(actor.resume.remote(), timeout=limit_s)
    except (ray.exceptions.GetTimeoutError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"Ray did not start the controller within {limit_s:.0f} s: "
            f"{str(error).splitlines()[0]}",
            remedy="Every Ray node needs this version of pdcache installed.",
        ) from None
    return ClusterClient(record, limit_s=limit_s)


def status_of(record: Record) -> ClusterStatus:
    """Status of a cluster; a cluster that does not answer is DEGRADED with the reason."""
    try:
        return ClusterClient(record, limit_s=5.0).status()
    except ClusterError as error:
        return ClusterStatus(record.name, ClusterState.DEGRADED, reasons=[str(error)])
