"""`apply`, `scale`, `drain`, `restart`, `change`, `storage`: what they ask a live cluster for."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_outcome import Outcome, Pdcache
from live_cluster import LiveCluster

from pdcache.changes.change import Change, ChangeState, StepState
from pdcache.changes.kinds import without_storage
from pdcache.changes.steps import steps_between
from pdcache.cli import changes, storage
from pdcache.topology import load_topology

RESTART = ["hold", "drain", "stop", "start", "prove", "release"]
ADD = ["enter", "start", "prove", "release"]


@pytest.fixture
def cluster(small: Path, monkeypatch: pytest.MonkeyPatch) -> LiveCluster:
    """A cluster named small with one prefill and one decode."""
    made = LiveCluster(load_topology(small, []))
    for module in (changes, storage):
        monkeypatch.setattr(module, "ClusterClient", made)
    return made


def on(name: str, actions: list[str]) -> list[str]:
    return [f"{action} {name}" for action in actions]


def steps(done: Outcome) -> list[str]:
    return [f"{step['action']} {step['process']}" for step in done.json()["change"]["steps"]]


def failed_change(cluster: LiveCluster) -> Change:
    """A restart of the prefill that stopped in the middle."""
    own = cluster.own
    planned = steps_between(own.plan, own.plan, restart=frozenset({"prefill-0"}))
    change = Change("restart prefill-0", planned, own.plan, own.topology, (own.plan, own.topology))
    for step in planned[:3]:
        step.state = StepState.DONE
    planned[3].state = StepState.FAILED
    change.state, change.reason = ChangeState.FAILED, "start prefill-0: no."
    own.change = change
    return change


# --- apply


def test_a_dry_run_shows_the_steps_and_does_none(
    pdcache: Pdcache, small: Path, cluster: LiveCluster
) -> None:
    done = pdcache("apply", small, "--set", "prefill.workers=2", "--dry-run")
    assert done.code == 0
    assert [line.strip() for line in done.out.splitlines()] == on("prefill-1", ADD)
    assert cluster.begun == []
    assert cluster.closed


def test_a_dry_run_as_json_has_the_same_steps(
    pdcache: Pdcache, small: Path, cluster: LiveCluster
) -> None:
    done = pdcache("apply", small, "--set", "prefill.workers=2", "--dry-run", "--json")
    assert steps(done) == on("prefill-1", ADD)
    assert {step["state"] for step in done.json()["change"]["steps"]} == {"TODO"}


def test_without_a_difference_there_is_nothing_to_change(
    pdcache: Pdcache, small: Path, cluster: LiveCluster
) -> None:
    done = pdcache("apply", small)
    assert (done.code, done.out.strip()) == (0, "nothing to change.")
    assert pdcache("apply", small, "--json").json()["change"]["steps"] == []
    assert cluster.begun == []


def test_apply_does_the_steps_and_tells_them(
    pdcache: Pdcache, small: Path, cluster: LiveCluster
) -> None:
    done = pdcache("apply", small, "--set", "prefill.workers=2")
    assert done.code == 0
    assert done.out.strip() == f"DONE apply {small}"
    assert [line.split()[1:3] for line in done.err.splitlines()] == [
        step.split() for step in on("prefill-1", ADD)
    ]
    (change,) = cluster.begun
    assert change.topology.prefill.workers == 2
    assert change.before == (cluster.own.plan, cluster.own.topology)
    assert change.plan.process("prefill-0") == cluster.own.plan.process("prefill-0")


def test_a_topology_that_cannot_run_changes_nothing(
    pdcache: Pdcache, small: Path, cluster: LiveCluster
) -> None:
    done = pdcache("apply", small, "--set", "prefill.args.no-such-flag=1")
    assert done.code == 1
    assert "the topology cannot run here; nothing was changed." in done.err
    assert cluster.begun == []


def test_what_cannot_change_is_refused(pdcache: Pdcache, small: Path, cluster: LiveCluster) -> None:
    done = pdcache("apply", small, "--set", "page_size=32")
    assert done.code == 1
    assert "page_size cannot change while the cluster serves" in done.err
    assert cluster.begun == []


def test_a_change_of_the_only_prefill_is_an_outage_that_must_be_allowed(
    pdcache: Pdcache, small: Path, cluster: LiveCluster
) -> None:
    words = ("apply", small, "--set", "prefill.max_running_requests=4", "--json")
    refused = pdcache(*words)
    assert refused.code == 1
    assert "no other prefill worker serves" in refused.err
    assert "pdcache scale small prefill=2" in refused.err
    assert steps(pdcache(*words, "--allow-outage")) == on("prefill-0", RESTART)
    assert cluster.begun[0].limit_s == 600.0


@pytest.mark.parametrize(
    "words", [("restart", "gateway"), ("apply", "small.yaml", "--set", "gateway.queue_size=8")]
)
def test_the_gateway_is_replaced_only_if_refused_connections_are_allowed(
    pdcache: Pdcache, small: Path, cluster: LiveCluster, words: tuple[str, ...]
) -> None:
    words = tuple(str(small) if word == small.name else word for word in words)
    refused = pdcache(*words)
    assert refused.code == 1
    assert "connections are refused for a second or two" in refused.err
    assert cluster.begun == []
    assert steps(pdcache(*words, "--allow-outage", "--json")) == ["replace gateway"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("gateway.key_file=/tmp/another.key", "gateway.key_file: the gateway's key cannot change"),
        ("gateway.port=8123", "the gateway's address cannot change while the cluster serves"),
    ],
)
def test_where_and_with_which_key_clients_ask_cannot_change(
    pdcache: Pdcache, small: Path, cluster: LiveCluster, override: str, said: str
) -> None:
    done = pdcache("apply", small, "--set", override, "--allow-outage")
    assert done.code == 1
    assert said in done.err
    assert "pdcache down small" in done.err
    assert cluster.begun == []


def test_apply_finds_the_cluster_by_the_name_in_the_file(
    pdcache: Pdcache, small: Path, cluster: LiveCluster
) -> None:
    done = pdcache("apply", small, "--name", "other")
    assert done.code == 1
    assert "no cluster named 'other' is up. Clusters that are up: small." in done.err


def test_a_change_that_fails_is_exit_1_with_the_ways_out(
    pdcache: Pdcache, small: Path, cluster: LiveCluster
) -> None:
    cluster.fails = True
    done = pdcache("apply", small, "--set", "prefill.workers=2")
    assert done.code == 1
    assert done.out.startswith("FAILED apply")
    assert "enter prefill-1: out of order." in done.out
    assert "pdcache change --resume" in done.out
    assert "enter prefill-1 FAILED" in done.err
    again = pdcache("apply", small)
    assert again.code == 1
    assert "the last change failed and is not finished" in again.err


# --- scale


@pytest.mark.parametrize(
    "words",
    [
        [], ["small"], ["small", "other", "prefill=2"], ["prefill=two"], ["prefill="],
        ["prefill=-1"], ["store=2"], ["gateway=2"], ["=2"], ["prefill=2", "--timeout", "soon"],
    ],
)  # fmt: skip
def test_scale_needs_a_role_and_a_number(
    pdcache: Pdcache, cluster: LiveCluster, words: list[str]
) -> None:
    done = pdcache("scale", *words)
    assert (done.code, done.out) == (2, "")
    assert cluster.begun == []


def test_scale_to_none_is_refused(pdcache: Pdcache, cluster: LiveCluster) -> None:
    done = pdcache("scale", "prefill=0")
    assert done.code == 1
    assert "prefill.workers" in done.err
    assert cluster.begun == []


@pytest.mark.parametrize("words", [["prefill=2"], ["small", "prefill=2"], ["prefill=2", "small"]])
def test_scale_adds_a_worker_and_needs_no_name_for_the_only_cluster(
    pdcache: Pdcache, cluster: LiveCluster, words: list[str]
) -> None:
    done = pdcache("scale", *words, "--json")
    assert (done.code, steps(done)) == (0, on("prefill-1", ADD))
    assert done.json()["change"]["title"] == "scale prefill=2"


def test_scale_of_both_roles_is_one_change(pdcache: Pdcache, cluster: LiveCluster) -> None:
    done = pdcache("scale", "decode=2", "prefill=2", "--json")
    assert steps(done) == [*on("prefill-1", ADD), *on("decode-1", ADD)]


def test_scale_to_what_there_is_changes_nothing(pdcache: Pdcache, cluster: LiveCluster) -> None:
    assert pdcache("scale", "prefill=1", "decode=1").out.strip() == "nothing to change."


# --- drain, restart


def test_the_only_worker_is_not_drained(pdcache: Pdcache, cluster: LiveCluster) -> None:
    done = pdcache("drain", "prefill-0")
    assert done.code == 1
    assert "no other prefill worker serves" in done.err
    allowed = pdcache("drain", "prefill-0", "--allow-outage", "--json")
    assert steps(allowed) == on("prefill-0", RESTART[:3])


def test_restart_takes_a_worker_a_role_or_the_gateway(
    pdcache: Pdcache, cluster: LiveCluster
) -> None:
    def restarted(target: str) -> list[str]:
        return steps(pdcache("restart", target, "--allow-outage", "--json"))

    assert restarted("prefill-0") == restarted("prefill") == on("prefill-0", RESTART)
    assert restarted("gateway") == ["replace gateway"]


@pytest.mark.parametrize("command", ["drain", "restart"])
@pytest.mark.parametrize("target", ["prefill-7", "store-master", "nonsense"])
def test_an_unknown_worker_is_answered_with_the_known_ones(
    pdcache: Pdcache, cluster: LiveCluster, command: str, target: str
) -> None:
    done = pdcache(command, target)
    assert done.code == 1
    assert f"no worker is named '{target}'. Workers: prefill-0, decode-0, gateway." in done.err


# --- change


def test_a_cluster_that_was_never_changed_says_so(pdcache: Pdcache, cluster: LiveCluster) -> None:
    assert pdcache("change").out.strip() == "this cluster was never changed."
    assert pdcache("change", "--json").json() == {"schema": 1, "change": None}
    for finish in ("--resume", "--rollback"):
        assert pdcache("change", finish).code == 0


def test_a_change_that_ended_is_shown(pdcache: Pdcache, cluster: LiveCluster) -> None:
    pdcache("scale", "prefill=2")
    done = pdcache("change", "small", "--json")
    assert (done.code, done.json()["change"]["state"]) == (0, "DONE")
    assert steps(done) == on("prefill-1", ADD)


def test_there_is_nothing_to_finish_of_a_change_that_ended(
    pdcache: Pdcache, cluster: LiveCluster
) -> None:
    pdcache("scale", "prefill=2")
    for finish in ("--resume", "--rollback"):
        done = pdcache("change", finish)
        assert done.code == 1
        assert "there is nothing to finish: scale prefill=2: done after 4 of 4 steps." in done.err


def test_only_one_way_to_finish_at_a_time(pdcache: Pdcache, cluster: LiveCluster) -> None:
    assert pdcache("change", "--resume", "--rollback").code == 2


def test_a_failed_change_is_shown_and_is_exit_1(pdcache: Pdcache, cluster: LiveCluster) -> None:
    failed_change(cluster)
    done = pdcache("change")
    assert done.code == 1
    assert "FAILED restart prefill-0" in done.out
    assert "start prefill-0: no." in done.out


def test_a_failed_change_is_taken_up_as_it_is(pdcache: Pdcache, cluster: LiveCluster) -> None:
    change = failed_change(cluster)
    done = pdcache("change", "--resume", "--json")
    assert (done.code, cluster.begun) == (0, [change])
    assert steps(done) == on("prefill-0", RESTART)


def test_a_failed_change_is_taken_back(pdcache: Pdcache, cluster: LiveCluster) -> None:
    change = failed_change(cluster)
    done = pdcache("change", "--rollback", "--json")
    assert done.json()["change"]["state"] == "ROLLED_BACK"
    assert cluster.begun == [change]
    assert change.rolling_back


def test_taking_back_that_failed_goes_on_where_it_stopped(
    pdcache: Pdcache, cluster: LiveCluster
) -> None:
    change = failed_change(cluster)
    change.rolling_back = True
    before = list(change.steps)
    pdcache("change", "--rollback")
    assert change.steps == before


@pytest.mark.parametrize(
    "words", [("restart", "prefill"), ("drain", "prefill-0"), ("scale", "prefill=2")]
)
def test_a_change_remembers_who_was_out_of_service(
    pdcache: Pdcache, cluster: LiveCluster, words: tuple[str, ...]
) -> None:
    cluster.own.stopped, cluster.down = ["prefill-0"], {"prefill-0"}
    assert pdcache(*words).code == 0
    assert cluster.begun[0].stopped == {"prefill-0"}


# --- storage


def test_l3_is_taken_away_and_stays_away_over_other_changes(
    pdcache: Pdcache, cluster: LiveCluster
) -> None:
    away = pdcache("storage", "detach", "--allow-outage", "--json")
    assert steps(away) == [
        *on("prefill-0", ["hold", "idle", "detach", "prove", "release"]), *on("decode-0", RESTART),
    ]  # fmt: skip
    cluster.own.plan = cluster.begun[0].plan
    cluster.own.change = None
    assert steps(pdcache("scale", "prefill=2", "--json")) == on("prefill-1", ADD)
    added = cluster.begun[-1].plan.process("prefill-1")
    assert "--hicache-storage-backend" not in added.argv
    back = pdcache("storage", "attach", "--allow-outage", "--json")
    assert "attach prefill-0" in steps(back)


def test_a_policy_is_changed_without_an_outage(pdcache: Pdcache, cluster: LiveCluster) -> None:
    done = pdcache("storage", "policies", "--prefetch", "best_effort", "--json")
    assert steps(done) == ["policies prefill-0"]


def test_a_policy_that_no_check_lets_pass_changes_nothing(
    pdcache: Pdcache, cluster: LiveCluster
) -> None:
    done = pdcache("storage", "policies", "--write", "write_back")
    assert done.code == 1
    assert "write_back writes a page to L3 only when it is evicted" in done.err
    assert cluster.begun == []


def test_a_write_policy_whose_check_is_left_out_is_changed(
    pdcache: Pdcache, cluster: LiveCluster
) -> None:
    words = ("storage", "policies", "--write", "write_back", "--skip-check", "write-policy")
    assert steps(pdcache(*words, "--json")) == ["policies prefill-0"]


def test_a_write_policy_of_the_only_worker_is_an_outage_while_it_is_detached(
    pdcache: Pdcache, cluster: LiveCluster
) -> None:
    cluster.own.plan = without_storage(cluster.own.plan)
    words = ("storage", "policies", "--write", "write_back", "--skip-check", "write-policy")
    refused = pdcache(*words)
    assert refused.code == 1
    assert "no other prefill worker serves" in refused.err
    assert steps(pdcache(*words, "--allow-outage", "--json")) == on("prefill-0", RESTART)


def test_policies_without_any_are_wrong_usage(pdcache: Pdcache, cluster: LiveCluster) -> None:
    assert pdcache("storage", "policies").code == 2


def test_the_state_of_l3_is_what_each_worker_has_in_force(
    pdcache: Pdcache, cluster: LiveCluster
) -> None:
    rows = {row["worker"]: row for row in pdcache("storage", "status", "--json").json()["workers"]}
    assert rows["prefill-0"]["attached"] is rows["decode-0"]["attached"] is True
    assert rows["prefill-0"]["backend"] == "mooncake"
    assert "prefill-0" in pdcache("storage", "status").out
