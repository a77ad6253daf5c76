"""What fails goes out of the gateway at once, and comes back only when it is proved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from golden.plans import golden_plan
from watched_cluster import PLAN, Cluster, watched_cluster

from pdcache.cluster.states import ProcessState
from pdcache.cluster.tree import TreeState
from pdcache.cluster.watching import (
    BACKOFF_S,
    CRASH_LOOP_S,
    FROZEN_DECODE_S,
    FROZEN_PREFILL_S,
    HUNG_AFTER_S,
    LOG_LINES,
    PROBE_EVERY_S,
    PROOF_TRIES_S,
    QUIET_S,
    UNHEALTHY_AFTER,
)
from pdcache.errors import ClusterError, ProofError

ALL = ["prefill-0-1", "prefill-1-1", "decode-0-1"]
WITHOUT_PREFILL_0 = ALL[1:]
FROZEN, TORN = TreeState(frozen=True), TreeState(torn=True)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return watched_cluster(tmp_path, monkeypatch)


def is_back(cluster: Cluster, name: str, incarnation: int = 2) -> bool:
    return f"{name}-{incarnation}" in cluster.manifest


def goes_well_for(cluster: Cluster, seconds: float) -> bool:
    return cluster.clock.now_s > 1000.0 + seconds


# --- death


def test_a_worker_that_is_well_is_left_alone(cluster: Cluster) -> None:
    cluster.watch("prefill-0", lambda: goes_well_for(cluster, 3600))
    assert cluster.fleet.did == []
    assert cluster.fleet.manifests == [ALL]
    assert cluster.events("prefill-0") == []


def test_the_actor_of_a_worker_that_is_well_is_called_seldom(cluster: Cluster) -> None:
    cluster.watch("prefill-0", lambda: goes_well_for(cluster, 3600))
    first, *others = cluster.fleet.waits
    assert first == PROBE_EVERY_S
    assert set(others) == {QUIET_S}
    assert len(others) <= 3600 / QUIET_S + 1


def test_the_actor_of_a_worker_that_is_silent_is_called_every_second(cluster: Cluster) -> None:
    cluster.silent.add("prefill-0")
    cluster.watch("prefill-0", lambda: len(cluster.fleet.waits) >= UNHEALTHY_AFTER)
    assert set(cluster.fleet.waits) == {PROBE_EVERY_S}


def test_while_all_is_well_nothing_is_kept_anew_nor_written(cluster: Cluster) -> None:
    cluster.watch_all(lambda: goes_well_for(cluster, 600))
    assert cluster.kept == 0
    assert cluster.fleet.manifests == [ALL]


def test_a_dead_worker_goes_out_is_started_again_proved_and_comes_back(cluster: Cluster) -> None:
    cluster.fleet.exit_code["prefill-0"] = -9
    cluster.watch("prefill-0", lambda: is_back(cluster, "prefill-0"))
    assert cluster.fleet.manifests == [ALL, WITHOUT_PREFILL_0, ["prefill-0-2", *WITHOUT_PREFILL_0]]
    assert cluster.fleet.did == ["start prefill-0"]
    assert cluster.proved == ["prefill-0"]
    assert cluster.events("prefill-0") == ["died", "restarted"]
    own = cluster.own("prefill-0")
    assert (own.restarts, own.reason) == (1, None)
    assert own.log_tail == f"the last {LOG_LINES} lines of prefill-0"


def test_a_death_tells_its_exit_code(cluster: Cluster) -> None:
    cluster.fleet.exit_code["prefill-0"] = 137
    cluster.watch("prefill-0", lambda: cluster.events("prefill-0"))
    (event,) = cluster.live.events.since(0)
    assert (event.text, event.did) == (
        "ended with exit code 137", "out of the gateway; started again",
    )  # fmt: skip


def test_a_worker_whose_actor_is_gone_is_started_again(cluster: Cluster) -> None:
    cluster.fleet.gone.add("decode-0")
    cluster.watch("decode-0", lambda: is_back(cluster, "decode-0"))
    assert cluster.events("decode-0") == ["died", "restarted"]


def test_a_torn_server_goes_out_before_what_is_left_of_it_is_ended(cluster: Cluster) -> None:
    cluster.fleet.tree["prefill-0"] = TORN
    cluster.watch("prefill-0", lambda: is_back(cluster, "prefill-0"))
    assert cluster.fleet.did == ["kill prefill-0", "start prefill-0"]
    assert cluster.fleet.known_at_end == {"prefill-0": WITHOUT_PREFILL_0}
    assert cluster.events("prefill-0") == ["died", "restarted"]


@pytest.mark.parametrize("name", ["gateway", "store-master"])
def test_what_is_no_worker_is_started_again_without_a_proof(cluster: Cluster, name: str) -> None:
    cluster.fleet.exit_code[name] = 1
    cluster.watch(name, lambda: cluster.events(name) == ["died", "restarted"])
    assert cluster.proved == []
    assert cluster.fleet.manifests == [ALL]


def test_a_server_that_lost_a_node_is_started_again_on_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = golden_plan("deepseek_r1_hf3fs_full_offload_tp16")
    cluster = watched_cluster(tmp_path, monkeypatch, plan)
    cluster.fleet.exit_code["prefill-0-rank-1"] = 1
    cluster.watch("prefill-0-rank-1", lambda: "died" in cluster.events("prefill-0-rank-1"),
                  lambda: cluster.own("prefill-0").state is ProcessState.DEAD)  # fmt: skip
    assert cluster.fleet.did[0] == "end prefill-0"
    assert cluster.own("prefill-1").state is ProcessState.HEALTHY
    assert cluster.proved == []


def test_a_server_that_is_frozen_on_one_node_is_ended_on_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = golden_plan("deepseek_r1_hf3fs_full_offload_tp16")
    cluster = watched_cluster(tmp_path, monkeypatch, plan)
    cluster.fleet.tree["prefill-0-rank-1"] = FROZEN
    cluster.watch("prefill-0-rank-1", lambda: "end prefill-0" in cluster.fleet.did)
    assert cluster.fleet.did[:2] == ["kill prefill-0-rank-1", "end prefill-0"]


def test_a_worker_that_takes_no_more_requests_is_out_at_the_first_look(cluster: Cluster) -> None:
    cluster.leaving.add("prefill-0")
    cluster.watch("prefill-0", lambda: cluster.manifest == WITHOUT_PREFILL_0)
    assert cluster.clock.now_s - 1000.0 <= 2 * PROBE_EVERY_S
    assert cluster.fleet.did == []


# --- crash loops


def test_a_worker_that_keeps_dying_is_started_later_each_time(cluster: Cluster) -> None:
    cluster.fleet.exit_code["prefill-0"] = 1
    errors = [ClusterError(f"start {n} failed.", log_tail=f"log {n}") for n in range(7)]
    cluster.fleet.start_errors["prefill-0"] = errors
    cluster.watch("prefill-0", lambda: is_back(cluster, "prefill-0", 9))
    waits = [seconds for seconds in cluster.clock.slept if seconds in BACKOFF_S[1:]]
    assert [seconds for seconds in waits if seconds >= 2] == [2, 5, 15, 30, 30, 30, 30]
    assert cluster.events("prefill-0") == ["died", *["failed"] * 7, "restarted"]
    assert cluster.own("prefill-0").restarts == 8


def test_a_start_that_failed_tells_the_reason_the_log_and_when_it_is_tried_again(
    cluster: Cluster,
) -> None:
    cluster.fleet.exit_code["prefill-0"] = 1
    error = ClusterError("ended with exit code 1.", log_tail="No such file: model")
    cluster.fleet.start_errors["prefill-0"] = [error]
    cluster.watch("prefill-0", lambda: "failed" in cluster.events("prefill-0"))
    own = cluster.own("prefill-0")
    assert (own.state, own.reason) == (ProcessState.DEAD, "ended with exit code 1.")
    assert own.log_tail == "No such file: model"
    event = cluster.live.events.since(0)[-1]
    assert event.did == "start 1 in a row failed; again in 2 s"
    assert cluster.live.ill() == ["prefill-0 is DEAD: ended with exit code 1."]


def test_a_proof_that_fails_at_first_is_tried_again(cluster: Cluster) -> None:
    cluster.fleet.exit_code["prefill-0"] = 1
    cluster.proof_errors = [ClusterError("did not prove reuse."), ProofError("no answer.")]
    cluster.watch("prefill-0", lambda: is_back(cluster, "prefill-0", 2))
    assert cluster.events("prefill-0") == ["died", "restarted"]
    assert all(not any(own.startswith("prefill-0") for own in row)
               for row in cluster.fleet.manifests[1:-1])  # fmt: skip


def test_a_proof_that_goes_on_failing_is_a_failed_start(cluster: Cluster) -> None:
    cluster.fleet.exit_code["prefill-0"] = 1
    tries = int(PROOF_TRIES_S / PROBE_EVERY_S) + 2
    cluster.proof_errors = [ClusterError("did not prove reuse.")] * tries
    cluster.watch("prefill-0", lambda: is_back(cluster, "prefill-0", 3))
    assert cluster.events("prefill-0") == ["died", "failed", "restarted"]
    assert all(not any(own.startswith("prefill-0") for own in row)
               for row in cluster.fleet.manifests[1:-1])  # fmt: skip


def test_deaths_of_long_ago_do_not_count(cluster: Cluster) -> None:
    cluster.fleet.exit_code["prefill-0"] = 1

    def again() -> bool:
        cluster.fleet.exit_code["prefill-0"] = 1
        return True

    cluster.watch(
        "prefill-0",
        lambda: is_back(cluster, "prefill-0", 2), again,
        lambda: is_back(cluster, "prefill-0", 3),
        lambda: goes_well_for(cluster, 2 * CRASH_LOOP_S), again,
        lambda: is_back(cluster, "prefill-0", 4),
    )  # fmt: skip
    waits = [seconds for seconds in cluster.clock.slept if seconds in BACKOFF_S[1:]]
    assert waits == [2]


def test_a_process_that_must_not_come_back_at_once_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        replace(own, restart_after_s=7.0) if own.name == "store-master" else own
        for own in PLAN.processes
    ]
    cluster = watched_cluster(tmp_path, monkeypatch, replace(PLAN, processes=tuple(rows)))
    cluster.fleet.exit_code["store-master"] = 1
    cluster.watch("store-master", lambda: cluster.fleet.did)
    assert 7.0 in cluster.clock.slept


# --- the store


def test_without_the_store_a_worker_is_not_started_and_that_is_no_death(cluster: Cluster) -> None:
    cluster.store_is_well = False
    cluster.fleet.exit_code["prefill-0"] = 1
    limit_s = PLAN.timeouts["store_s"]

    def mended() -> bool:
        assert cluster.fleet.did == []
        assert "the mooncake store did not answer" in str(cluster.own("prefill-0").reason)
        cluster.store_is_well = True
        return True

    cluster.watch("prefill-0", lambda: goes_well_for(cluster, 10 * limit_s), mended,
                  lambda: is_back(cluster, "prefill-0"))  # fmt: skip
    assert cluster.own("prefill-0").restarts == 1
    assert cluster.events("prefill-0") == ["died", "restarted"]
    assert not [seconds for seconds in cluster.clock.slept if seconds in BACKOFF_S[1:]]


def test_the_store_itself_and_the_gateway_do_not_wait_for_the_store(cluster: Cluster) -> None:
    cluster.store_is_well = False
    for name in ("store-master", "gateway"):
        cluster.fleet.exit_code[name] = 1
        cluster.watch(name, lambda name=name: "restarted" in cluster.events(name))


# --- frozen, and without an answer


def test_a_frozen_worker_goes_out_and_comes_back_when_it_is_proved(cluster: Cluster) -> None:
    cluster.fleet.tree["decode-0"] = FROZEN

    def goes_on() -> bool:
        assert cluster.own("decode-0").state is ProcessState.UNHEALTHY
        assert "stopped" in str(cluster.own("decode-0").reason)
        del cluster.fleet.tree["decode-0"]
        return True

    cluster.watch("decode-0", lambda: cluster.manifest == ALL[:2], goes_on,
                  lambda: cluster.manifest == ALL)  # fmt: skip
    assert cluster.fleet.did == []
    assert cluster.proved == ["decode-0"]
    assert cluster.events("decode-0") == ["unhealthy", "recovered"]
    assert cluster.own("decode-0").reason is None


@pytest.mark.parametrize(
    ("name", "overrides", "limit_s"),
    [
        ("prefill-0", {}, FROZEN_PREFILL_S),
        ("prefill-0", {"prefill-1": ProcessState.DEAD}, HUNG_AFTER_S),
        ("decode-0", {}, HUNG_AFTER_S),
        ("gateway", {}, HUNG_AFTER_S),
        ("store-master", {}, HUNG_AFTER_S),
    ],
)
def test_a_frozen_process_is_ended_at_once_after_its_limit(
    cluster: Cluster, name: str, overrides: dict[str, ProcessState], limit_s: float
) -> None:
    for other, state in overrides.items():
        cluster.own(other).state = state
    cluster.fleet.tree[name] = FROZEN
    begin = cluster.clock.now_s
    cluster.watch(name, lambda: cluster.fleet.did)
    assert cluster.fleet.did[0] == f"kill {name}"
    assert limit_s < cluster.clock.now_s - begin < limit_s + 2
    assert cluster.events(name)[:2] == ["unhealthy", "hung"]


def test_a_frozen_decode_is_given_less_time_while_another_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = golden_plan("three_nodes")
    cluster = watched_cluster(tmp_path, monkeypatch, plan)
    cluster.fleet.tree["decode-1"] = FROZEN
    cluster.watch("decode-1", lambda: cluster.fleet.did)
    assert FROZEN_DECODE_S < cluster.clock.now_s - 1000 < FROZEN_DECODE_S + 2


def test_a_worker_that_is_held_does_not_serve_in_the_place_of_a_frozen_one(
    cluster: Cluster,
) -> None:
    cluster.live.desired.held["prefill-1"] = "taken out by a change"
    cluster.fleet.tree["prefill-0"] = FROZEN
    cluster.watch("prefill-0", lambda: cluster.fleet.did)
    assert cluster.clock.now_s - 1000 > HUNG_AFTER_S


def test_a_late_answer_or_two_are_forgiven(cluster: Cluster) -> None:
    cluster.silent.add("prefill-0")

    def answers() -> bool:
        cluster.silent.clear()
        return True

    cluster.watch("prefill-0", lambda: goes_well_for(cluster, 1.5 * PROBE_EVERY_S), answers,
                  lambda: goes_well_for(cluster, 60))  # fmt: skip
    assert cluster.events("prefill-0") == []
    assert cluster.fleet.manifests == [ALL]


def test_late_answers_are_forgiven_for_ever_if_there_are_others_between(cluster: Cluster) -> None:
    def answers_and_not() -> bool:
        cluster.silent = {"prefill-0"} if int(cluster.clock.now_s) % 3 else set()
        return goes_well_for(cluster, 300)

    cluster.watch("prefill-0", answers_and_not)
    assert cluster.events("prefill-0") == []


def test_a_worker_that_does_not_answer_goes_out_and_after_a_while_is_ended(
    cluster: Cluster,
) -> None:
    cluster.silent.add("prefill-0")
    cluster.watch("prefill-0", lambda: cluster.fleet.did)
    assert cluster.fleet.did == ["kill prefill-0"]
    assert cluster.fleet.manifests[1] == WITHOUT_PREFILL_0
    assert cluster.events("prefill-0") == ["unhealthy", "hung"]
    assert HUNG_AFTER_S < cluster.clock.now_s - 1000 < HUNG_AFTER_S + 10


def test_a_worker_that_answers_but_does_not_reuse_stays_out_and_is_ended(cluster: Cluster) -> None:
    cluster.own("prefill-0").state = ProcessState.UNHEALTHY
    cluster.proof_errors = [ClusterError("did not prove reuse.") for _ in range(1000)]
    cluster.watch("prefill-0", lambda: cluster.fleet.did)
    assert cluster.fleet.did == ["kill prefill-0"]
    assert cluster.fleet.manifests == [WITHOUT_PREFILL_0]


# --- what a change has taken


@pytest.mark.parametrize("state", [ProcessState.STOPPED, ProcessState.STARTING])
def test_a_process_that_a_change_has_taken_is_left_alone(
    cluster: Cluster, state: ProcessState
) -> None:
    cluster.own("prefill-0").state = state
    cluster.fleet.exit_code["prefill-0"] = 0
    cluster.watch("prefill-0", lambda: goes_well_for(cluster, 3600))
    assert cluster.fleet.did == []
    assert cluster.events("prefill-0") == []
    assert cluster.own("prefill-0").state is state


def test_a_worker_that_a_change_stops_while_it_is_looked_at_is_no_death(cluster: Cluster) -> None:
    look = cluster.fleet.changed

    async def stopped_meanwhile(*given: object) -> object:
        seen = await look(*given)
        cluster.own("prefill-0").state = ProcessState.STOPPED
        return seen

    cluster.fleet.changed = stopped_meanwhile
    cluster.fleet.exit_code["prefill-0"] = 0
    cluster.watch("prefill-0", lambda: goes_well_for(cluster, 60))
    assert cluster.events("prefill-0") == []


def test_the_watch_of_a_process_ends_when_it_is_removed(cluster: Cluster) -> None:
    rows = tuple(own for own in PLAN.processes if own.name != "prefill-1")
    cluster.live.desired.plan = replace(PLAN, processes=rows)
    with pytest.raises(AssertionError, match="finished"):
        cluster.watch("prefill-1", lambda: False)


def test_a_worker_that_is_held_is_looked_after_and_stays_out(cluster: Cluster) -> None:
    cluster.live.desired.held["prefill-0"] = "drained"
    cluster.fleet.exit_code["prefill-0"] = 1
    cluster.watch("prefill-0", lambda: "restarted" in cluster.events("prefill-0"))
    assert cluster.fleet.manifests == [WITHOUT_PREFILL_0]


# --- all of them


def test_every_process_is_watched_and_those_that_a_change_adds_too(cluster: Cluster) -> None:
    added = replace(PLAN.process("prefill-1"), name="prefill-2", url="http://127.0.0.1:21009")

    def add_one() -> bool:
        cluster.fleet.statuses["prefill-2"] = replace(cluster.own("prefill-1"), name="prefill-2")
        plan = cluster.live.plan
        rows = (*plan.processes[:-1], added, plan.processes[-1])
        cluster.live.desired.plan = replace(plan, processes=rows)
        cluster.fleet.exit_code["prefill-2"] = 1
        return True

    cluster.fleet.exit_code |= {"prefill-0": 1, "store-holder-0": 1}
    cluster.watch_all(
        lambda: is_back(cluster, "prefill-0") and "start store-holder-0" in cluster.fleet.did,
        add_one,
        lambda: is_back(cluster, "prefill-2"),
    )
    assert sorted(cluster.fleet.did) == [
        "start prefill-0", "start prefill-2", "start store-holder-0",
    ]  # fmt: skip


def test_all_workers_dead_at_once_come_back(cluster: Cluster) -> None:
    cluster.fleet.exit_code |= {"prefill-0": 1, "prefill-1": 1, "decode-0": 1}
    cluster.watch_all(lambda: cluster.manifest == ["prefill-0-2", "prefill-1-2", "decode-0-2"])
    assert [] in cluster.fleet.manifests
