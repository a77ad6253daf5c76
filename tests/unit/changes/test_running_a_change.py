"""A change runs step by step; what fails stops it, and it can be taken up or taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from golden.plans import shipped
from live_plans import change_of, edited, live

from pdcache.changes import run as running
from pdcache.changes.actions import ACTIONS
from pdcache.changes.change import Change, ChangeState, Step, StepState
from pdcache.changes.run import roll_back, run_change
from pdcache.cluster.desired import Desired
from pdcache.cluster.events import Events
from pdcache.errors import ClusterError, ProofError
from pdcache.sglang.keys import Keys

RESTART = ["hold", "drain", "stop", "start", "prove", "release"]


class StubLive:
    """As much of the live cluster as a run of steps touches; it notes what was kept."""

    def __init__(self, folder: Path) -> None:
        self.desired = Desired(live(), shipped("full_offload"), Keys("admin"))
        self.events = Events(folder / "events.jsonl")
        self.kept: list[list[str]] = []
        self.change: Change | None = None

    def save(self) -> None:
        steps = self.change.steps if self.change else []
        self.kept.append([step.state.value for step in steps])


class Deeds:
    """Actions that note what was done, and fail where they are told to."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.hang: set[str] = set()

    def action(self, name: str) -> Callable[[StubLive, Step, float], Awaitable[None]]:
        async def act(cluster: StubLive, step: Step, limit_s: float) -> None:
            assert step.state is StepState.RUNNING
            assert cluster.kept[-1] == [own.state.value for own in cluster.change.steps]
            self.done.append(str(step))
            if str(step) in self.hang:
                await asyncio.sleep(60)
            if (error := self.fail.get(str(step))) is not None:
                raise error

        return act


@pytest.fixture
def deeds(monkeypatch: pytest.MonkeyPatch) -> Deeds:
    noted = Deeds()
    monkeypatch.setattr(running, "ACTIONS", {name: noted.action(name) for name in ACTIONS})
    return noted


@pytest.fixture
def cluster(tmp_path: Path) -> StubLive:
    return StubLive(tmp_path)


def restart_of_both(limit_s: float = 5.0) -> Change:
    return change_of(live(), edited(live(), "prefill.max_running_requests=4"), limit_s)


def go(cluster: StubLive, change: Change) -> None:
    cluster.change = change
    asyncio.run(run_change(cluster, change))


def on(name: str, actions: list[str]) -> list[str]:
    return [f"{action} {name}" for action in actions]


def told(cluster: StubLive) -> list[str]:
    return [event.text for event in cluster.events.since(0)]


def test_every_action_that_steps_name_is_there() -> None:
    change = change_of(
        live("prefill.workers=3", "decode.workers=2"),
        edited(live(), "decode.max_running_requests=4", "prefill.hicache.prefetch_threshold=9"),
    )
    names = {step.action for step in change.steps}
    assert {"remove", "detach", "attach", "idle", "drain"} <= names <= ACTIONS.keys()


def test_a_change_does_its_steps_in_order_and_the_new_plan_is_the_desired_one(
    cluster: StubLive, deeds: Deeds
) -> None:
    change = restart_of_both()
    go(cluster, change)
    assert deeds.done == [*on("prefill-0", RESTART), *on("prefill-1", RESTART)]
    assert change.state is ChangeState.DONE
    assert {step.state for step in change.steps} == {StepState.DONE}
    assert cluster.desired.plan is change.plan
    assert change.verdict() == "apply a.yaml: done after 12 of 12 steps"
    assert told(cluster)[-1] == change.verdict()


def test_a_change_without_steps_is_done_at_once(cluster: StubLive, deeds: Deeds) -> None:
    change = change_of(live(), edited(live(), "watch.reuse_s=5"))
    go(cluster, change)
    assert (change.state, deeds.done) == (ChangeState.DONE, [])
    assert cluster.desired.topology is change.topology


def test_each_step_is_kept_before_it_is_done_and_after(cluster: StubLive, deeds: Deeds) -> None:
    change = change_of(live(), edited(live(), "prefill.hicache.write_policy=write_back"))
    go(cluster, change)
    seen = [states for i, states in enumerate(cluster.kept) if states not in cluster.kept[:i]]
    assert seen == [
        ["TODO", "TODO"], ["RUNNING", "TODO"], ["DONE", "TODO"], ["DONE", "RUNNING"],
        ["DONE", "DONE"],
    ]  # fmt: skip


@pytest.mark.parametrize("error", [ClusterError("no.", where="prefill-0"), ProofError("no.")])
def test_a_step_that_fails_stops_the_change_and_is_reported(
    cluster: StubLive, deeds: Deeds, error: Exception
) -> None:
    change = restart_of_both()
    deeds.fail["start prefill-0"] = error
    go(cluster, change)
    assert deeds.done == on("prefill-0", RESTART[:4])
    assert change.is_open_failure
    assert change.reason == f"start prefill-0: {error}"
    assert [step.state.value for step in change.steps[:5]] == [
        "DONE", "DONE", "DONE", "FAILED", "TODO",
    ]  # fmt: skip
    assert cluster.desired.plan is not change.plan
    assert told(cluster)[-1].startswith("apply a.yaml: failed after 3 of 12 steps (start prefill-0")
    assert cluster.kept[-1][3] == "FAILED"


def test_a_step_that_takes_too_long_is_named_with_its_limit(
    cluster: StubLive, deeds: Deeds
) -> None:
    change = restart_of_both(limit_s=0.05)
    deeds.hang.add("drain prefill-0")
    go(cluster, change)
    assert change.reason == "drain prefill-0: not done within 0 s"
    assert change.steps[1].state is StepState.FAILED
    assert change.steps[1].seconds >= 0.05


def test_a_failed_change_goes_on_with_the_step_that_failed(cluster: StubLive, deeds: Deeds) -> None:
    change = restart_of_both()
    deeds.fail["start prefill-0"] = ClusterError("no.")
    go(cluster, change)
    deeds.fail.clear()
    deeds.done.clear()
    go(cluster, change)
    assert deeds.done == [*on("prefill-0", RESTART[3:]), *on("prefill-1", RESTART)]
    assert (change.state, change.reason) == (ChangeState.DONE, None)


def test_a_step_that_a_killed_controller_left_running_is_done_again(
    cluster: StubLive, deeds: Deeds
) -> None:
    change = restart_of_both()
    change.steps[0].state, change.steps[1].state = StepState.DONE, StepState.RUNNING
    go(cluster, change)
    assert deeds.done[0] == "drain prefill-0"
    assert change.state is ChangeState.DONE


def test_a_change_that_is_taken_back_ends_with_the_plan_of_before(
    cluster: StubLive, deeds: Deeds
) -> None:
    change = change_of(
        live(), edited(live(), "prefill.workers=3", "prefill.max_running_requests=4")
    )
    deeds.fail["stop prefill-0"] = ClusterError("no.")
    go(cluster, change)
    names = {process.name for process in change.plan.processes}
    deeds.fail.clear()
    deeds.done.clear()
    go(cluster, roll_back(names, change))
    assert sorted(set(deeds.done)) == sorted(
        [*on("prefill-0", RESTART), *on("prefill-2", ["hold", "drain", "remove"])]
    )
    assert (change.state, change.reason) == (ChangeState.ROLLED_BACK, None)
    assert cluster.desired.plan is change.before[0]
    assert cluster.desired.topology is change.before[1]


def test_taking_back_can_fail_and_be_taken_up_too(cluster: StubLive, deeds: Deeds) -> None:
    change = restart_of_both()
    deeds.fail["start prefill-0"] = ClusterError("no.")
    go(cluster, change)
    go(cluster, roll_back({process.name for process in live().processes}, change))
    assert change.is_open_failure
    assert change.rolling_back
    assert change.reason == "start prefill-0: no."
    deeds.fail.clear()
    go(cluster, change)
    assert change.state is ChangeState.ROLLED_BACK
