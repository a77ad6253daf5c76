"""What a change tells: a verdict in a line, JSON for programs, and why another has to wait."""

from __future__ import annotations

import json
import pickle

import pytest
from live_plans import change_of, edited, live

from pdcache.changes.change import Change, ChangeState, StepState
from pdcache.errors import ClusterError


def change(state: ChangeState, reason: str | None = None, done: int = 0) -> Change:
    made = change_of(live(), edited(live(), "prefill.workers=3"))
    made.state, made.reason = state, reason
    for step in made.steps[:done]:
        step.state = StepState.DONE
    return made


@pytest.mark.parametrize("state", [ChangeState.DONE, ChangeState.ROLLED_BACK])
def test_after_a_change_that_ended_another_may_begin(state: ChangeState) -> None:
    change(state).refuse_another()


def test_while_a_change_runs_another_has_to_wait() -> None:
    with pytest.raises(ClusterError) as caught:
        change(ChangeState.RUNNING, done=1).refuse_another()
    assert str(caught.value).startswith(
        "another change is running (apply a.yaml: running after 1 of 4 steps)."
    )


def test_a_failed_change_is_finished_first_and_both_ways_are_named() -> None:
    with pytest.raises(ClusterError) as caught:
        change(ChangeState.FAILED, "start prefill-2: no.").refuse_another()
    for word in ("start prefill-2: no.", "--resume", "--rollback"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("state", "reason", "done", "said"),
    [
        (ChangeState.RUNNING, None, 0, "running after 0 of 4 steps"),
        (ChangeState.FAILED, "prove prefill-2: no.", 2, "failed after 2 of 4 steps (prove prefil"),
        (ChangeState.DONE, None, 4, "done after 4 of 4 steps"),
        (ChangeState.ROLLED_BACK, None, 4, "rolled_back after 4 of 4 steps"),
    ],
)
def test_a_verdict_says_how_far_it_is(
    state: ChangeState, reason: str | None, done: int, said: str
) -> None:
    assert change(state, reason, done).verdict().startswith(f"apply a.yaml: {said}")


def test_as_json_it_has_the_keys_that_programs_rely_on() -> None:
    made = change(ChangeState.FAILED, "start prefill-2: no.", done=1)
    data = json.loads(json.dumps(made.as_json()))
    assert data.keys() == {"id", "title", "state", "reason", "rolling_back", "steps"}
    assert data["state"] == "FAILED"
    assert data["rolling_back"] is False
    assert data["steps"][0] == {
        "action": "enter", "process": "prefill-2", "state": "DONE", "seconds": 0.0,
    }  # fmt: skip
    assert [step["action"] for step in data["steps"]] == ["enter", "start", "prove", "release"]


def test_no_two_changes_have_one_id() -> None:
    assert len({change(ChangeState.RUNNING).id for _ in range(5)}) == 5


def test_a_change_survives_the_death_of_its_controller() -> None:
    made = change(ChangeState.FAILED, "no.", done=2)
    assert pickle.loads(pickle.dumps(made)) == made
