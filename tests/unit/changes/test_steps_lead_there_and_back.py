"""Whatever changes and wherever it stops: steps lead to the goal, and steps back to the start."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from hypothesis import assume, given, settings
from hypothesis import strategies as some
from live_plans import change_of, live
from small_cluster import SmallCluster, with_flag, workers

from pdcache.changes.change import Change, Step, StepState
from pdcache.changes.kinds import OPTIONS, PREFETCH, WRITE, without_storage
from pdcache.changes.steps import refuse_outage, steps_back
from pdcache.errors import ClusterError
from pdcache.plan.process import Plan, Process
from pdcache.topology.schema import WORKER_ROLES, Role

LARGEST = live("prefill.workers=3", "decode.workers=3")
POLICIES = some.sampled_from(["timeout", "wait_complete"])
WRITES = some.sampled_from(["write_through", "write_back"])
OPTION_TEXTS = some.sampled_from(['{"prefetch_threshold":64}', '{"prefetch_threshold":128}'])
REQUESTS = some.sampled_from(["4", "8"])


@dataclass(frozen=True)
class Wish:
    """What a user may write into a topology."""

    prefill: int
    decode: int
    prefetch: str
    write: str
    options: str
    prefill_requests: str
    decode_requests: str
    gateway: str
    attached: bool

    @cache  # noqa: B019
    def plan(self) -> Plan:
        """The plan that has it so."""
        rows = [self._process(own) for own in LARGEST.processes if self._has(own)]
        plan = replace(LARGEST, processes=tuple(rows))
        return plan if self.attached else without_storage(plan)

    def _has(self, process: Process) -> bool:
        index = int(process.name.rpartition("-")[2]) if process.role in WORKER_ROLES else 0
        return index < {Role.PREFILL: self.prefill, Role.DECODE: self.decode}.get(process.role, 1)

    def _process(self, process: Process) -> Process:
        if process.role is Role.PREFILL:
            process = with_flag(process, PREFETCH, self.prefetch)
            process = with_flag(process, OPTIONS, self.options)
            process = with_flag(process, "--max-running-requests", self.prefill_requests)
            return with_flag(process, WRITE, self.write)
        if process.role is Role.DECODE:
            return with_flag(process, "--max-running-requests", self.decode_requests)
        if process.role is Role.GATEWAY:
            return with_flag(process, "--prefill-policy", self.gateway)
        return process


COUNTS = some.integers(1, 3)
GATEWAYS = some.sampled_from(["cache_aware", "random"])


WISHES = some.builds(
    Wish, prefill=COUNTS, decode=COUNTS, prefetch=POLICIES, write=WRITES,
    options=OPTION_TEXTS, prefill_requests=REQUESTS, decode_requests=REQUESTS,
    gateway=GATEWAYS, attached=some.booleans(),
)  # fmt: skip
NAMES = some.frozensets(some.sampled_from(sorted(workers(LARGEST))), max_size=3)
AT, HAS_EFFECT = some.integers(0, 99), some.booleans()


@dataclass(frozen=True)
class Case:
    """A cluster, what it shall become, and which of its servers are stopped or restarted."""

    before: Wish
    after: Wish
    stopped_at_first: frozenset[str]
    restart: frozenset[str]

    @property
    def stopped(self) -> frozenset[str]:
        """Servers that are out of service when the change begins."""
        return self.stopped_at_first & workers(self.before.plan())

    @property
    def stopped_at_last(self) -> frozenset[str]:
        """Those that nobody asked for and that are still a part of the cluster."""
        return (self.stopped - self.restart) & workers(self.after.plan())


CASES = some.builds(Case, WISHES, WISHES, NAMES, NAMES)


def change_between(case: Case) -> tuple[Change, SmallCluster]:
    """The change, and a cluster at its beginning."""
    before, after = case.before.plan(), case.after.plan()
    change = change_of(before, after, restart=case.restart, stopped=case.stopped)
    return change, SmallCluster(before, case.stopped)


def stop_at(change: Change, cluster: SmallCluster, at: int, has_effect: bool) -> list[Step]:
    """Do the first steps; the next one fails, with its effect or without. What is left."""
    assume(change.steps)
    at %= len(change.steps)
    for step in change.steps[:at]:
        cluster.do(step)
        step.state = StepState.DONE
    if has_effect:
        cluster.do(change.steps[at])
    change.steps[at].state = StepState.FAILED
    return change.steps[at:]


@settings(max_examples=80)
@given(CASES)
def test_all_steps_lead_to_the_goal(case: Case) -> None:
    change, cluster = change_between(case)
    for step in change.steps:
        cluster.do(step)
    assert cluster.is_as(change.plan, case.stopped_at_last)


@settings(max_examples=80)
@given(CASES, AT, HAS_EFFECT)
def test_a_change_that_is_taken_up_where_it_failed_leads_to_the_goal(
    case: Case, at: int, has_effect: bool
) -> None:
    change, cluster = change_between(case)
    for step in stop_at(change, cluster, at, has_effect):
        cluster.do(step)
    assert cluster.is_as(change.plan, case.stopped_at_last)


@settings(max_examples=80)
@given(CASES, AT, HAS_EFFECT)
def test_a_change_that_is_taken_back_leads_to_the_start(
    case: Case, at: int, has_effect: bool
) -> None:
    change, cluster = change_between(case)
    stop_at(change, cluster, at, has_effect)
    for step in steps_back(change, set(cluster.told)):
        cluster.do(step)
    assert cluster.is_as(change.before[0], case.stopped)


@settings(max_examples=80)
@given(CASES)
def test_steps_that_are_not_refused_leave_each_role_a_worker_if_it_had_one(case: Case) -> None:
    change, cluster = change_between(case)
    served = [role for role in WORKER_ROLES if cluster.serves(role)]
    try:
        refuse_outage(change.before[0], change.steps, set(cluster.serving))
    except ClusterError as error:
        assert error.where in cluster.told
        return
    for step in change.steps:
        cluster.do(step)
        assert all(cluster.serves(role) for role in served), step
