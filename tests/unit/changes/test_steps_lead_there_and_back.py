"""Whatever changes and wherever it stops: steps lead to the goal, and steps back to the start."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from hypothesis import assume, given, settings
from hypothesis import strategies as some
from live_plans import change_of, live
from small_cluster import SmallCluster, with_flag

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
PAIRS, AT, HAS_EFFECT = some.tuples(WISHES, WISHES), some.integers(0, 99), some.booleans()
Pair = tuple[Wish, Wish]


def change_between(pair: Pair) -> tuple[Change, SmallCluster]:
    """The change, and a cluster at its beginning."""
    before, after = pair
    change = change_of(before.plan(), after.plan())
    return change, SmallCluster(before.plan())


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
@given(PAIRS)
def test_all_steps_lead_to_the_goal(pair: Pair) -> None:
    change, cluster = change_between(pair)
    for step in change.steps:
        cluster.do(step)
    assert cluster.is_as(change.plan)


@settings(max_examples=80)
@given(PAIRS, AT, HAS_EFFECT)
def test_a_change_that_is_taken_up_where_it_failed_leads_to_the_goal(
    pair: Pair, at: int, has_effect: bool
) -> None:
    change, cluster = change_between(pair)
    for step in stop_at(change, cluster, at, has_effect):
        cluster.do(step)
    assert cluster.is_as(change.plan)


@settings(max_examples=80)
@given(PAIRS, AT, HAS_EFFECT)
def test_a_change_that_is_taken_back_leads_to_the_start(
    pair: Pair, at: int, has_effect: bool
) -> None:
    change, cluster = change_between(pair)
    stop_at(change, cluster, at, has_effect)
    for step in steps_back(change, set(cluster.told)):
        cluster.do(step)
    assert cluster.is_as(change.before[0])


@settings(max_examples=80)
@given(PAIRS)
def test_steps_that_are_not_refused_leave_always_a_worker_of_each_role(pair: Pair) -> None:
    change, cluster = change_between(pair)
    try:
        refuse_outage(change.before[0], change.steps, set(cluster.serving))
    except ClusterError as error:
        assert error.where in cluster.told
        return
    for step in change.steps:
        cluster.do(step)
        assert all(cluster.serves(role) for role in WORKER_ROLES), step
