"""Every change of a live cluster, one after the other, under a load that sees none of them.

The tests build on one another: each begins with the workers that the one before left.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pdcache.changes.kinds import has_storage
from pdcache.plan import Plan, Process
from pdcache.plan.portable import flags
from pdcache.sglang import storage
from pdcache.topology import Role
from tests.cluster.live_changes.conftest import FILE
from tests.cluster.live_changes.watched import (
    Watched,
    assert_done,
    assert_runs_as_planned,
    assert_serving,
    places,
    unchanged,
)
from tests.dialogues import Running
from tests.load import wrong_tokens

STORE_AND_GATEWAY = {"store-master", "store-holder-0", "gateway"}
OPTION = ("--set", "hicache.prefetch_timeout_base_s=2")
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def test_the_only_worker_of_a_role_is_not_taken_out(live: Watched) -> None:
    with live.change("refused outages"):
        commands = (("drain", "prefill-0"), ("restart", "decode"), ("storage", "detach"))
        refusals = [live.shell.start(*command) for command in commands]
        for refusal in refusals:
            said = refusal.communicate(timeout=60)[0]
            assert refusal.returncode == 1, said
            assert "no other" in said and "--allow-outage" in said and "Traceback" not in said
        assert live.status()["change"] is None


def test_a_step_that_fails_stops_the_change_and_rollback_restores_what_was(live: Watched) -> None:
    before, plan = live.status(), live.plan()
    with live.change("scale that is too slow, rollback"):
        with live.no_server_starts():
            live.shell.fails("scale", "prefill=2", "--timeout", "1")
        failed = live.status()
        assert_failed_at(failed, "start prefill-1")
        assert unchanged(before, failed) == places(before).keys()
        refused = live.shell.fails("scale", "decode=2")
        assert "change --resume" in refused and "change --rollback" in refused
        live.shell.ok("change", "--rollback")
        after = live.status()
    assert after["change"]["state"] == "ROLLED_BACK"
    assert_serving(after, prefill=1, decode=1)
    assert places(after) == places(before)
    assert live.plan() == plan
    assert places(failed)["prefill-1"][0] not in {one.pid for one in live.shell.processes()}


def test_workers_are_added_though_the_controller_is_killed_meanwhile(live: Watched) -> None:
    before = live.status()
    with live.change("scale prefill=3 decode=2, controller killed"):
        scale = live.shell.start("scale", "prefill=3", "decode=2")
        live.kill_controller_when(scale, "start prefill-2")
        assert_done(scale, "scale prefill=3 decode=2")
        after = live.status()
    assert_serving(after, prefill=3, decode=2)
    assert unchanged(before, after) == places(before).keys()
    assert live.controllers_so_far() == 2


def test_storage_is_attached_anew_with_changed_options_though_the_controller_is_killed(
    live: Watched,
) -> None:
    before = live.status()
    with live.change("storage attach, new options, controller killed"):
        attach = live.shell.start("storage", "attach", *OPTION)
        live.kill_controller_when(attach, "attach prefill-1")
        assert_done(attach, "storage attach")
        after = live.status()
    assert live.controllers_so_far() == 3
    assert_serving(after, prefill=3, decode=2)
    assert places(after) == places(before)
    assert {step["process"] for step in after["change"]["steps"]} == {
        "prefill-0", "prefill-1", "prefill-2",
    }  # fmt: skip
    for row in live.shell.json("storage", "status")["workers"]:
        base_s = json.loads(row["options"]).get("prefetch_timeout_base")
        assert (base_s == 2) is row["worker"].startswith("prefill"), row


def test_policies_change_without_a_worker_leaving_the_gateway(live: Watched) -> None:
    before = live.status()
    with live.change("storage policies"):
        live.shell.ok("storage", "policies", "--prefetch", "wait_complete")
        after = live.status()
    assert {step["action"] for step in after["change"]["steps"]} == {"policies"}
    assert places(after) == places(before)
    seen = asyncio.run(told_by_prefills(live.controller.running()))
    assert {one["hicache_storage_prefetch_policy"] for one in seen} == {"wait_complete"}


def test_an_edited_topology_is_applied_with_the_least_that_does_it(
    live: Watched, sets: tuple[str, ...]
) -> None:
    before = live.status()
    edited = ("prefill.workers=2", "decode.workers=2", "prefill.hicache.prefetch_policy=timeout")
    with live.change("apply: one prefill less, another policy"):
        live.shell.ok("apply", FILE, *sets, *OPTION, *laid(edited))
        after = live.status()
    steps = [f"{step['action']} {step['process']}" for step in after["change"]["steps"]]
    assert steps == [
        "policies prefill-0", "policies prefill-1", "hold prefill-2", "drain prefill-2",
        "remove prefill-2",
    ]  # fmt: skip
    assert_serving(after, prefill=2, decode=2)
    assert unchanged(before, after) == places(before).keys() - {"prefill-2"}


def test_a_drained_worker_and_its_whole_role_are_restarted_one_at_a_time(live: Watched) -> None:
    before = live.status()
    with live.change("drain prefill-0"):
        live.shell.ok("drain", "prefill-0")
        drained = live.status()
        assert "no other prefill" in live.shell.fails("drain", "prefill-1")
    assert drained["state"] == "UP", drained["reasons"]
    assert state_of(drained, "prefill-0") == "STOPPED"
    with live.change("restart prefill, controller killed"):
        restart = live.shell.start("restart", "prefill")
        live.kill_controller_when(restart, "stop prefill-1")
        assert_done(restart, "restart prefill")
        after = live.status()
    assert live.controllers_so_far() == 4
    assert_serving(after, prefill=2, decode=2)
    assert unchanged(before, after) == places(before).keys() - {"prefill-0", "prefill-1"}


@pytest.mark.soak
def test_storage_is_detached_though_the_controller_is_killed_meanwhile(live: Watched) -> None:
    before = live.status()
    live.storage_goes()
    with live.change("storage detach, controller killed"):
        detach = live.shell.start("storage", "detach")
        live.kill_controller_when(detach, "release prefill-1")
        assert_done(detach, "storage detach")
        after = live.status()
    assert_serving(after, prefill=2, decode=2)
    assert unchanged(before, after) == places(before).keys() - {"decode-0", "decode-1"}
    assert live.controllers_so_far() == 5
    assert not any(has_storage(worker) for worker in workers(live.plan()))
    live.load.wait_for_turns(6)
    detached = [turn for turn in live.load.done if turn.began_s > live.spans[-1].ended_s]
    assert sum(turn.storage for turn in detached) == 0


@pytest.mark.soak
def test_a_change_that_failed_is_finished_once_its_cause_is_gone(
    live: Watched, tmp_path: Path
) -> None:
    before, template = live.status(), tmp_path / "plain.jinja"
    with live.change("storage attach that fails, resume"):
        flag = ("--set", f"decode.args.chat_template={template}")
        live.shell.fails("storage", "attach", *flag, limit_s=400)
        failed = live.status()
        assert_failed_at(failed, "start decode-0")
        assert unchanged(before, failed) == places(before).keys() - {"decode-0"}
        assert "change --resume" in live.shell.fails("scale", "decode=3")
        template.write_text(TEMPLATE)
        live.shell.ok("change", "--resume")
        after = live.status()
    live.storage_is_back()
    assert after["change"]["state"] == "DONE"
    assert_serving(after, prefill=2, decode=2)
    assert unchanged(before, after) == places(before).keys() - {"decode-0", "decode-1"}
    assert all(has_storage(worker) for worker in workers(live.plan()))
    for worker in live.plan().role(Role.DECODE):
        assert flags(worker)["--chat-template"] == str(template)
        assert_runs_as_planned(live.plan(), after, worker.name)
    live.load.wait_for_turns(18)
    attached = [turn for turn in live.load.done if turn.began_s > live.attached[-1][0]]
    assert sum(turn.storage for turn in attached) > 0


def test_workers_are_removed_after_their_last_request(live: Watched) -> None:
    before = live.status()
    with live.change("scale prefill=1 decode=1, controller killed"):
        scale = live.shell.start("scale", "prefill=1", "decode=1")
        live.kill_controller_when(scale, "drain prefill-1")
        assert_done(scale, "scale prefill=1 decode=1")
        after = live.status()
    assert_serving(after, prefill=1, decode=1)
    gone = {"prefill-1", "decode-1"}
    assert unchanged(before, after) == places(before).keys() - gone
    left = {one.pid for one in live.shell.processes()}
    assert not left & {places(before)[name][0] for name in gone}


def test_no_request_failed_no_token_differs_and_later_turns_reached_their_ceiling(
    live: Watched,
) -> None:
    live.assert_gateway_has_them()
    live.load.stop()
    live.assert_no_request_failed()
    later = [turn for turns in live.whole_dialogues(True) for turn in turns if turn.turn > 1]
    cached, ceiling = sum(turn.cached for turn in later), sum(turn.ceiling for turn in later)
    assert cached / ceiling >= 0.95, live.table()
    wrong = wrong_tokens(live.load.plan, live.load.done, at_once=8)
    assert wrong == []


def assert_failed_at(status: dict[str, Any], step: str) -> None:
    """A change has failed at a step, and the cluster says so."""
    assert status["state"] == "DEGRADED"
    assert status["change"]["state"] == "FAILED"
    assert status["change"]["reason"].startswith(step), status["change"]["reason"]
    assert any(step in reason for reason in status["reasons"]), status["reasons"]


def laid(values: tuple[str, ...]) -> tuple[str, ...]:
    """Words of the command line that lay values over a topology."""
    return tuple(word for value in values for word in ("--set", value))


def state_of(status: dict[str, Any], worker: str) -> str:
    """The state of one process."""
    return str(next(one["state"] for one in status["workers"] if one["name"] == worker))


def workers(plan: Plan) -> list[Process]:
    """All SGLang servers of a plan."""
    return [*plan.role(Role.PREFILL), *plan.role(Role.DECODE)]


async def told_by_prefills(running: Running) -> list[dict[str, str | None]]:
    """What each prefill answers when it is asked for its storage, with the admin key."""
    async with running.client(20) as client:
        prefills = running.plan.role(Role.PREFILL)
        return [await storage.shown(client, worker) for worker in prefills]
