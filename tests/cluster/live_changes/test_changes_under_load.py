"""Every change of a live cluster, one after the other, under a load that sees none of them.

The tests build on one another: each begins with the workers that the one before left.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pdcache.plan import Plan
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


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat template that is not there yet: a prefill that wants it ends while it starts."""
    return tmp_path_factory.mktemp("templates") / "plain.jinja"


def apply(sets: tuple[str, ...], template: Path) -> tuple[str, ...]:
    """A second prefill, and a changed flag for the first."""
    more = ("prefill.workers=2", f"prefill.args.chat_template={template}")
    return ("apply", FILE, *sets, *(word for one in more for word in ("--set", one)))


def test_the_only_worker_of_a_role_is_not_taken_out(live: Watched) -> None:
    with live.change("refused outages"):
        for command in (("drain", "prefill-0"), ("restart", "decode"), ("storage", "detach")):
            message = live.shell.fails(*command)
            assert "no other" in message and "--allow-outage" in message
        assert live.status()["change"] is None


def test_a_step_that_fails_stops_the_change_and_rollback_restores_what_was(
    live: Watched, sets: tuple[str, ...], template: Path
) -> None:
    before, plan = live.status(), live.running().plan
    with live.change("apply that fails, rollback"):
        live.shell.fails(*apply(sets, template))
        failed = live.status()
        assert failed["state"] == "DEGRADED" and failed["change"]["state"] == "FAILED"
        assert any("start prefill-1" in reason for reason in failed["reasons"]), failed["reasons"]
        assert unchanged(before, failed) == places(before).keys()
        refused = live.shell.fails("scale", "decode=2")
        assert "change --resume" in refused and "change --rollback" in refused
        live.shell.ok("change", "--rollback")
        after = live.status()
    assert after["change"]["state"] == "ROLLED_BACK"
    assert_serving(after, prefill=1, decode=1)
    assert places(after) == places(before)
    assert live.running().plan == plan


def test_a_change_that_failed_is_finished_once_its_cause_is_gone(
    live: Watched, sets: tuple[str, ...], template: Path
) -> None:
    before = live.status()
    with live.change("apply that fails, resume"):
        live.shell.fails(*apply(sets, template))
        template.write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
        live.shell.ok("change", "--resume")
        after = live.status()
    assert after["change"]["state"] == "DONE"
    assert_serving(after, prefill=2, decode=1)
    assert unchanged(before, after) == {"decode-0", *STORE_AND_GATEWAY}
    plan = live.running().plan
    for worker in ("prefill-0", "prefill-1"):
        assert_runs_as_planned(plan, after, worker)
        assert any(str(template) in word for word in process_argv(plan, worker))


def test_workers_are_added_though_the_controller_is_killed_meanwhile(live: Watched) -> None:
    before = live.status()
    with live.change("scale prefill=3 decode=2, controller killed"):
        scale = live.shell.start("scale", "prefill=3", "decode=2")
        live.kill_controller_when(scale, "start prefill-2 ...")
        assert_done(scale, "scale prefill=3 decode=2")
        after = live.status()
    assert_serving(after, prefill=3, decode=2)
    assert unchanged(before, after) == places(before).keys()
    assert controller_starts(live) == 1


def test_storage_is_attached_anew_with_changed_options_and_nothing_restarts(
    live: Watched,
) -> None:
    before = live.status()
    with live.change("storage attach, new options"):
        live.shell.ok("storage", "attach", "--set", "hicache.prefetch_timeout_base_s=2")
        after = live.status()
    assert_serving(after, prefill=3, decode=2)
    assert places(after) == places(before)
    assert {step["process"] for step in after["change"]["steps"]} == {
        "prefill-0", "prefill-1", "prefill-2",
    }  # fmt: skip
    for row in storage_rows(live):
        base_s = json.loads(row["options"]).get("prefetch_timeout_base")
        assert (base_s == 2) is row["worker"].startswith("prefill"), row


def test_policies_change_without_a_worker_leaving_the_gateway(live: Watched) -> None:
    before = live.status()
    with live.change("storage policies"):
        live.shell.ok("storage", "policies", "--prefetch", "wait_complete")
        after = live.status()
    assert {step["action"] for step in after["change"]["steps"]} == {"policies"}
    assert places(after) == places(before)
    seen = asyncio.run(told_by_prefills(live.running()))
    assert {one["hicache_storage_prefetch_policy"] for one in seen} == {"wait_complete"}


def test_a_drained_worker_and_its_whole_role_are_restarted_one_at_a_time(live: Watched) -> None:
    before = live.status()
    with live.change("scale prefill=2"):
        live.shell.ok("scale", "prefill=2")
    with live.change("drain prefill-0"):
        live.shell.ok("drain", "prefill-0")
        drained = live.status()
        assert "no other prefill" in live.shell.fails("drain", "prefill-1")
    assert drained["state"] == "UP"
    assert state_of(drained, "prefill-0") == "STOPPED"
    assert "prefill-2" not in places(drained)
    with live.change("restart prefill"):
        live.shell.ok("restart", "prefill")
        after = live.status()
    assert_serving(after, prefill=2, decode=2)
    assert unchanged(before, after) == {"decode-0", "decode-1", *STORE_AND_GATEWAY}


def test_storage_is_detached_though_the_controller_is_killed_meanwhile(live: Watched) -> None:
    before = live.status()
    live.storage_goes()
    with live.change("storage detach, controller killed"):
        detach = live.shell.start("storage", "detach")
        live.kill_controller_when(detach, "drain decode-0 ...")
        assert_done(detach, "storage detach")
        after = live.status()
    assert_serving(after, prefill=2, decode=2)
    assert unchanged(before, after) == {"prefill-0", "prefill-1", *STORE_AND_GATEWAY}
    assert controller_starts(live) == 2
    assert not any(row["attached"] for row in storage_rows(live))
    live.load.wait_for_turns(6)
    detached = [turn for turn in live.load.done if turn.began_s > live.spans[-1].ended_s]
    assert sum(turn.storage for turn in detached) == 0


def test_storage_is_attached_again_and_turns_find_their_answers_in_it(live: Watched) -> None:
    before = live.status()
    with live.change("storage attach"):
        live.shell.ok("storage", "attach")
        after = live.status()
    live.storage_is_back()
    assert_serving(after, prefill=2, decode=2)
    assert unchanged(before, after) == {"prefill-0", "prefill-1", *STORE_AND_GATEWAY}
    assert all(row["attached"] for row in storage_rows(live))


def test_workers_are_removed_after_their_last_request(live: Watched) -> None:
    before = live.status()
    with live.change("scale prefill=1 decode=1"):
        live.shell.ok("scale", "prefill=1", "decode=1")
        after = live.status()
    assert_serving(after, prefill=1, decode=1)
    assert unchanged(before, after) == {"prefill-0", "decode-0", *STORE_AND_GATEWAY}
    gone = {places(before)[name][0] for name in ("prefill-1", "decode-1")}
    assert not gone & {process.pid for process in live.shell.processes()}


def test_no_request_failed_no_token_differs_and_later_turns_reached_their_ceiling(
    live: Watched,
) -> None:
    live.load.wait_for_turns(18)
    live.load.stop()
    assert [str(turn) for turn in live.load.done if turn.error] == []
    whole = [turn for turns in live.whole_dialogues(True) for turn in turns if turn.turn > 1]
    cached, ceiling = sum(turn.cached for turn in whole), sum(turn.ceiling for turn in whole)
    assert cached / ceiling >= 0.95, live.table()
    after_attach = [turn for turn in whole if turn.began_s > live.attached[-1][0]]
    assert sum(turn.storage for turn in after_attach) > 0
    wrong = {span.what: wrong_tokens(live.load.plan, live.sample(span)) for span in live.spans}
    assert not any(wrong.values()), wrong


def state_of(status: dict[str, Any], worker: str) -> str:
    """The state of one process."""
    return str(next(one["state"] for one in status["workers"] if one["name"] == worker))


def process_argv(plan: Plan, worker: str) -> tuple[str, ...]:
    """Command line of a process in a plan."""
    return next(one.argv for one in plan.processes if one.name == worker)


def storage_rows(live: Watched) -> list[dict[str, Any]]:
    """What `storage status` says of each worker."""
    rows: list[dict[str, Any]] = live.shell.json("storage", "status", live.name)["workers"]
    return rows


def controller_starts(live: Watched) -> int:
    """How often a controller took the place of another."""
    events = live.shell.json("events", live.name, "-n", "1000")["events"]
    return sum(one["subject"] == "controller" and one["kind"] == "restarted" for one in events)


async def told_by_prefills(running: Running) -> list[dict[str, str | None]]:
    """What each prefill answers when it is asked for its storage, with the admin key."""
    async with running.client(20) as client:
        workers = running.plan.role(Role.PREFILL)
        return [await storage.shown(client, worker) for worker in workers]
