"""From two plans to steps: what comes first, and what is refused before it begins."""

from __future__ import annotations

from dataclasses import replace

import pytest
from live_plans import change_of, edited, live

from pdcache.changes.change import Step, StepState
from pdcache.changes.kinds import without_storage
from pdcache.changes.steps import drain_steps, refuse_outage, steps_back, steps_between
from pdcache.errors import ClusterError
from pdcache.plan.process import Plan

RESTART = ["hold", "drain", "stop", "start", "prove", "release"]
ADD = ["enter", "start", "prove", "release"]
REMOVE = ["hold", "drain", "remove"]
ATTACH_ANEW = ["hold", "idle", "detach", "attach", "prove", "release"]


def words(steps: list[Step]) -> list[str]:
    return [str(step) for step in steps]


def on(name: str, actions: list[str]) -> list[str]:
    return [f"{action} {name}" for action in actions]


def steps(*overrides: str, before: Plan | None = None) -> list[Step]:
    begin = before or live()
    return steps_between(begin, edited(begin, *overrides))


def outage(plan: Plan, planned: list[Step], serving: set[str]) -> str | None:
    """What a refusal says, or None."""
    try:
        refuse_outage(plan, planned, serving)
    except ClusterError as error:
        return str(error)
    return None


ALL = {"prefill-0", "prefill-1", "decode-0"}


def test_no_difference_is_no_step() -> None:
    assert steps() == []


def test_workers_are_added_then_changed_then_removed_and_prefill_comes_before_decode() -> None:
    planned = steps(
        "prefill.workers=1", "prefill.max_running_requests=4",
        "decode.workers=2", "decode.max_running_requests=4",
    )  # fmt: skip
    assert words(planned) == [
        *on("decode-1", ADD),
        *on("prefill-0", RESTART),
        *on("decode-0", RESTART),
        *on("prefill-1", REMOVE),
    ]


def test_one_worker_is_changed_after_the_other_and_the_gateway_last() -> None:
    planned = steps("prefill.max_running_requests=4", "gateway.prefill_policy=random")
    assert words(planned) == [
        *on("prefill-0", RESTART), *on("prefill-1", RESTART), "replace gateway",
    ]  # fmt: skip


def test_options_of_l3_are_changed_by_detach_and_attach_while_nothing_runs_there() -> None:
    planned = steps("prefill.hicache.prefetch_threshold=128")
    assert words(planned) == [*on("prefill-0", ATTACH_ANEW), *on("prefill-1", ATTACH_ANEW)]


def test_a_policy_is_changed_without_taking_a_worker_out() -> None:
    planned = steps("prefill.hicache.prefetch_policy=wait_complete")
    assert words(planned) == ["policies prefill-0", "policies prefill-1"]


def test_taking_l3_away_only_detaches_and_giving_it_back_only_attaches() -> None:
    bare = without_storage(live())
    away, back = steps_between(live(), bare), steps_between(bare, live())
    on_prefill = ["hold", "idle", "detach", "prove", "release"]
    assert words(away)[:5] == on("prefill-0", on_prefill)
    assert words(away)[-6:] == on("decode-0", RESTART)
    assert words(back)[:5] == on("prefill-0", ["attach" if a == "detach" else a
                                              for a in on_prefill])  # fmt: skip


def test_a_restart_that_is_asked_for_needs_no_difference_and_touches_nobody_else() -> None:
    planned = steps_between(live(), live(), restart=frozenset({"prefill-1"}))
    assert words(planned) == on("prefill-1", RESTART)


def test_a_restart_of_the_gateway_replaces_it() -> None:
    assert words(steps_between(live(), live(), restart=frozenset({"gateway"}))) == [
        "replace gateway"
    ]


def test_a_step_knows_its_process_before_and_after() -> None:
    for step in steps("prefill.workers=3", "prefill.max_running_requests=4"):
        if step.process.name == "prefill-2":
            assert step.before is None
        else:
            assert step.before == live().process(step.process.name)
        assert "4" in step.process.argv


def test_draining_leaves_a_worker_as_it_is() -> None:
    worker = live().process("prefill-0")
    planned = drain_steps((worker,))
    assert words(planned) == on("prefill-0", ["hold", "drain", "stop"])
    assert all(step.process is worker and step.before is worker for step in planned)


# --- servers that span nodes, servers that are out of service


def test_a_server_over_two_nodes_is_restarted_as_one() -> None:
    wide = live("device=cuda", "prefill.nodes=2", "prefill.tp=2")
    planned = steps_between(wide, wide, restart=frozenset({"prefill-0"}))
    assert words(planned) == on("prefill-0", RESTART)
    for step in planned:
        assert [own.name for own in step.processes] == ["prefill-0", "prefill-0-rank-1"]


def test_what_changes_on_its_second_node_only_restarts_the_whole_server() -> None:
    wide = live("device=cuda", "prefill.nodes=2", "prefill.tp=2")
    second = replace(wide.process("prefill-0-rank-1"), env={"SGLANG_X": "1"})
    rows = tuple(second if own.name == second.name else own for own in wide.processes)
    planned = steps_between(wide, replace(wide, processes=rows))
    assert words(planned) == on("prefill-0", RESTART)
    assert planned[0].others == (second,)


def test_a_server_that_is_out_of_service_only_learns_what_it_will_be() -> None:
    after = edited(live(), "prefill.max_running_requests=4")
    planned = steps_between(live(), after, stopped=frozenset({"prefill-1"}))
    assert words(planned) == [*on("prefill-0", RESTART), "define prefill-1"]


def test_a_server_that_is_out_of_service_comes_back_when_that_is_asked_for() -> None:
    out = frozenset({"prefill-1"})
    assert words(steps_between(live(), live(), restart=out, stopped=out)) == on(
        "prefill-1", RESTART
    )
    assert words(steps_between(live(), live(), stopped=out)) == []


def test_what_it_learnt_is_taken_back() -> None:
    after = edited(live(), "prefill.max_running_requests=4")
    change = change_of(live(), after, stopped=frozenset({"prefill-0", "prefill-1"}))
    change.steps[0].state = StepState.DONE
    undone = steps_back(change, {own.name for own in live().processes})
    assert words(undone) == ["define prefill-0"]
    assert undone[0].process == live().process("prefill-0")


# --- outages


def test_the_only_worker_of_a_role_is_not_taken_out() -> None:
    said = outage(live(), steps("decode.max_running_requests=4"), ALL)
    assert said is not None
    assert "decode-0: no other decode worker serves" in said
    assert "pdcache scale full-offload decode=2" in said
    assert "--allow-outage" in said


def test_one_of_two_may_be_out() -> None:
    assert outage(live(), steps("prefill.max_running_requests=4"), ALL) is None


def test_a_worker_whose_peer_is_drained_is_the_only_one() -> None:
    drained = ALL - {"prefill-1"}
    for planned in (steps("prefill.max_running_requests=4"),
                    drain_steps((live().process("prefill-0"),))):  # fmt: skip
        said = outage(live(), planned, drained)
        assert said is not None
        assert said.startswith("prefill-0: no other prefill worker serves")


def test_draining_both_is_refused_at_the_second() -> None:
    planned = [step for i in (0, 1) for step in drain_steps((live().process(f"prefill-{i}"),))]
    said = outage(live(), planned, ALL)
    assert said is not None
    assert said.startswith("prefill-1: ")


def test_a_worker_that_does_not_serve_anyhow_may_be_taken_out() -> None:
    planned = drain_steps((live().process("prefill-1"),))
    assert outage(live(), planned, {"prefill-0", "decode-0"}) is None
    assert outage(live(), planned, {"decode-0"}) is None


def test_a_worker_that_is_added_first_stands_in() -> None:
    assert outage(live(), steps("decode.workers=2", "decode.max_running_requests=4"), ALL) is None


def test_a_worker_that_came_back_stands_in_for_the_next() -> None:
    two = live("decode.workers=2")
    planned = steps("decode.max_running_requests=4", before=two)
    assert outage(two, planned, {*ALL, "decode-1"}) is None


@pytest.mark.parametrize("restart", [frozenset(), frozenset({"gateway"})])
def test_the_only_gateway_is_not_replaced(restart: frozenset[str]) -> None:
    override = () if restart else ("gateway.prefill_policy=random",)
    planned = steps_between(live(), edited(live(), *override), restart=restart)
    said = outage(live(), planned, {*ALL, "gateway"})
    assert said is not None
    assert said.startswith("gateway: there is no other")
    assert "connections are refused for a second or two" in said
    assert "--allow-outage" in said


def test_a_gateway_that_does_not_serve_anyhow_may_be_replaced() -> None:
    assert outage(live(), steps("gateway.prefill_policy=random"), ALL) is None


def test_a_role_without_any_worker_is_no_reason_to_refuse() -> None:
    assert outage(live(), steps("decode.max_running_requests=4"), {"prefill-0"}) is None


# --- back


def back(*overrides: str, done: int, failed: bool = True) -> list[str]:
    """Steps back after ``done`` steps, the next of which failed."""
    change = change_of(live(), edited(live(), *overrides))
    for step in change.steps[:done]:
        step.state = StepState.DONE
    if failed:
        change.steps[done].state = StepState.FAILED
    names = {process.name for process in live().processes}
    entered = {step.process.name for step in change.steps[:done] if step.action == "enter"}
    removed = {step.process.name for step in change.steps[:done] if step.action == "remove"}
    return words(steps_back(change, (names | entered) - removed))


def test_nothing_was_done_so_nothing_is_taken_back() -> None:
    assert back("prefill.max_running_requests=4", done=0, failed=False) == []


@pytest.mark.parametrize("done", [0, 1])
def test_a_worker_that_was_only_taken_out_is_only_let_in_again(done: int) -> None:
    assert back("prefill.max_running_requests=4", done=done) == ["release prefill-0"]


@pytest.mark.parametrize("done", [2, 3, 4, 5])
def test_a_worker_that_was_stopped_is_restarted_as_it_was(done: int) -> None:
    assert back("prefill.max_running_requests=4", done=done) == on("prefill-0", RESTART)


@pytest.mark.parametrize("done", [2, 3])
def test_a_worker_that_may_not_run_is_restarted_though_an_attach_would_make_it_what_it_was(
    done: int,
) -> None:
    write = edited(live(), "prefill.hicache.write_policy=write_back")
    change = change_of(live(), without_storage(write))
    for step in change.steps[: done + 1]:
        step.state = StepState.DONE
    undone = steps_back(change, {own.name for own in live().processes})
    assert words(undone) == on("prefill-0", RESTART)


@pytest.mark.parametrize("done", [2, 3, 4, 5])
def test_a_worker_that_was_detached_is_attached_as_it_was(done: int) -> None:
    assert back("prefill.hicache.prefetch_threshold=128", done=done) == on("prefill-0", ATTACH_ANEW)


def test_policies_go_back_on_every_worker_that_was_reached() -> None:
    assert sorted(back("prefill.hicache.prefetch_policy=wait_complete", done=1)) == [
        "policies prefill-0", "policies prefill-1",
    ]  # fmt: skip


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_worker_that_was_added_is_removed(done: int) -> None:
    assert back("prefill.workers=3", done=done) == on("prefill-2", REMOVE)


def test_a_worker_that_could_not_even_enter_is_left_alone() -> None:
    assert back("prefill.workers=3", done=0) == []


def test_a_worker_that_was_removed_comes_back() -> None:
    change = change_of(live(), edited(live(), "prefill.workers=1"))
    for step in change.steps:
        step.state = StepState.DONE
    assert words(steps_back(change, {"prefill-0", "decode-0", "gateway"})) == on("prefill-1", ADD)


OUT = frozenset({"prefill-1"})
STOPPED_AGAIN = ["hold", "drain", "stop", "define"]


@pytest.mark.parametrize("done", range(len(RESTART)))
def test_a_server_that_was_out_of_service_stays_out_whatever_a_restart_did_to_it(
    done: int,
) -> None:
    change = change_of(live(), live(), restart=OUT, stopped=OUT)
    for step in change.steps[: done + 1]:
        step.state = StepState.DONE
    undone = steps_back(change, {own.name for own in live().processes})
    assert words(undone) == on("prefill-1", STOPPED_AGAIN)
    assert all(step.process == live().process("prefill-1") for step in undone)


def test_a_server_that_was_out_of_service_is_only_a_part_of_the_cluster_again() -> None:
    change = change_of(live(), edited(live(), "prefill.workers=1"), stopped=OUT)
    for step in change.steps:
        step.state = StepState.DONE
    assert words(steps_back(change, {"prefill-0", "decode-0", "gateway"})) == on(
        "prefill-1", ["enter", "hold"]
    )


def test_a_replaced_gateway_is_replaced_again() -> None:
    assert back("gateway.prefill_policy=random", done=0) == ["replace gateway"]


def test_the_process_of_a_step_back_is_the_one_from_before() -> None:
    change = change_of(live(), edited(live(), "prefill.max_running_requests=4"))
    for step in change.steps[:3]:
        step.state = StepState.DONE
    for step in steps_back(change, {process.name for process in live().processes}):
        assert step.process == live().process("prefill-0")
        assert step.before == replace(change.steps[0].process)
        assert step.state is StepState.TODO
