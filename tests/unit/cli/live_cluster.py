"""A cluster as the commands that change one see it, without Ray."""

from __future__ import annotations

from golden.plans import fixed_facts

from pdcache.changes.change import Change, ChangeState, StepState
from pdcache.cli.gather import gather
from pdcache.cluster.desired import Desired
from pdcache.cluster.record import Record
from pdcache.cluster.states import ClusterState, ClusterStatus, ProcessState, ProcessStatus
from pdcache.plan import build_plan
from pdcache.sglang.keys import Keys
from pdcache.topology import Topology
from pdcache.topology.facts import Node

NODE = Node(memory_bytes=16 << 30, cpus=2)


class LiveCluster:
    """Takes the place of `ClusterClient`; what was begun is done, or fails, at once.

    Attributes:
        down: workers that get no requests.
        fails: the first step of a change fails.
        begun: changes that were sent.
    """

    def __init__(self, topology: Topology) -> None:
        facts = gather(topology, nodes=(NODE,), port_free=fixed_facts().port_free)
        self.own = Desired(build_plan(topology, facts), topology, Keys("admin"), serving=True)
        self.down: set[str] = set()
        self.fails = False
        self.begun: list[Change] = []
        self.closed = False
        Record(
            name=topology.name, id="ab", address="127.0.0.1:1", token_file=None, temp_dir=None,
            scratch_dir=None, head_pid=7, head_started=None, created_s=1.0,
        ).save()  # fmt: skip

    def __call__(self, record: Record) -> LiveCluster:
        assert record.name == self.own.plan.name
        self.closed = False
        return self

    def desired(self) -> Desired:
        return self.own

    def plan(self) -> object:
        return self.own.plan

    def nodes(self) -> tuple[Node, ...]:
        return (NODE,)

    def status(self) -> ClusterStatus:
        rows = [
            ProcessStatus(
                own.name, own.role.value, own.url,
                ProcessState.STOPPED if own.name in self.down else ProcessState.HEALTHY,
            )
            for own in self.own.plan.processes
        ]  # fmt: skip
        return ClusterStatus("small", ClusterState.UP, workers=rows, change=self.own.change)

    def begin(self, change: Change) -> None:
        assert change.state is ChangeState.RUNNING
        self.begun.append(change)
        self.own.change = change
        for step in change.steps:
            step.state = StepState.DONE
        if self.fails:
            change.steps[0].state = StepState.FAILED
            change.state, change.reason = ChangeState.FAILED, f"{change.steps[0]}: out of order."
        else:
            change.state = ChangeState.ROLLED_BACK if change.rolling_back else ChangeState.DONE

    def close(self) -> None:
        self.closed = True
