"""The least that makes one plan of another, and what no change can do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from golden.plans import golden_plan
from live_plans import edited, kinds, live
from small_cluster import with_flag

from pdcache.changes.kinds import (
    BACKEND,
    OFFLOAD,
    OPTIONS,
    WRITE,
    Kind,
    has_storage,
    kind_of,
    refuse_impossible,
    without_storage,
)
from pdcache.errors import ClusterError
from pdcache.plan.portable import flags
from pdcache.topology.schema import WORKER_ROLES, Role

PREFILLS = ("prefill-0", "prefill-1")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("watch.reuse_s=5", {}),
        ("memory.host_gb=20", {}),
        ("timeouts.worker_s=30", {}),
        ("prefill.hicache.prefetch_policy=wait_complete", dict.fromkeys(PREFILLS, "policies")),
        ("prefill.hicache.write_policy=write_back", dict.fromkeys(PREFILLS, "policies")),
        ("prefill.hicache.prefetch_threshold=128", dict.fromkeys(PREFILLS, "storage")),
        ("prefill.hicache.prefetch_timeout_base_s=3", dict.fromkeys(PREFILLS, "storage")),
        ("prefill.max_running_requests=4", dict.fromkeys(PREFILLS, "restart")),
        ("prefill.env.A=b", dict.fromkeys(PREFILLS, "restart")),
        ("prefill.port=30000", dict.fromkeys(PREFILLS, "restart")),
        ("decode.hicache.write_policy=write_back", {"decode-0": "restart"}),
        ("gateway.prefill_policy=random", {"gateway": "restart"}),
        ("prefill.workers=3", {"prefill-2": "add"}),
        ("prefill.workers=1", {"prefill-1": "remove"}),
        ("decode.workers=2", {"decode-1": "add"}),
    ],
)
def test_an_edit_costs_the_least_that_does_it(override: str, expected: dict[str, str]) -> None:
    assert kinds(live(), edited(live(), override)) == expected


def test_a_policy_that_changes_together_with_an_option_needs_an_attach() -> None:
    both = ("prefill.hicache.write_policy=write_back", "prefill.hicache.prefetch_threshold=128")
    assert kinds(live(), edited(live(), *both)) == dict.fromkeys(PREFILLS, "storage")


def test_a_process_that_stays_as_it_is_needs_nothing() -> None:
    assert kinds(live(), edited(live())) == {}


@pytest.mark.parametrize("override", ["decode.hicache.prefetch_threshold=1", "decode.workers=1"])
def test_decode_never_attaches_and_never_changes_a_policy(override: str) -> None:
    before = live()
    after = edited(before, override)
    decode = before.process("decode-0")
    for flag in (BACKEND, OPTIONS, "--hicache-write-policy"):
        at = decode.argv.index(flag)
        argv = (*decode.argv[: at + 1], "another", *decode.argv[at + 2 :])
        assert kind_of(decode, replace(decode, argv=argv)) is Kind.RESTART
    assert kind_of(decode, after.process("decode-0")) in (Kind.NOTHING, Kind.RESTART)


def test_the_further_ranks_of_a_server_are_restarted_whatever_changes() -> None:
    before = edited(None, topology="deepseek_r1_hf3fs_full_offload_tp16")
    policy = "hicache.prefetch_policy=timeout"
    after = edited(before, policy, topology="deepseek_r1_hf3fs_full_offload_tp16")
    found = kinds(before, after)
    ranks = {process.name for process in before.processes if process.rank}
    assert ranks & found.keys()
    for name, kind in found.items():
        role = before.process(name).role
        whole = name not in ranks and role is Role.PREFILL
        assert kind is (Kind.POLICIES if whole else Kind.RESTART), name


def test_a_worker_without_the_store_has_none_of_its_flags_and_keeps_l2() -> None:
    bare = without_storage(live())
    for role in WORKER_ROLES:
        for worker in bare.role(role):
            assert not has_storage(worker)
            assert not {BACKEND, OPTIONS, OFFLOAD} & flags(worker).keys()
    prefill = flags(bare.process("prefill-0"))
    assert prefill["--enable-hierarchical-cache"] == ""
    assert prefill["--hicache-ratio"] == "2.0"
    assert without_storage(bare) == bare


def test_without_storage_leaves_every_other_word_where_it_was() -> None:
    for name in ("full_offload_cuda", "three_nodes", "eic", "file_backend"):
        plan = golden_plan(name)
        for before, after in zip(plan.processes, without_storage(plan).processes, strict=True):
            words = iter(before.argv)
            assert all(word in words for word in after.argv), before.name
            gone = flags(before).keys() - flags(after).keys()
            assert gone <= {BACKEND, OPTIONS, OFFLOAD, "--hicache-storage-prefetch-policy"}
            assert replace(after, argv=before.argv) == before


def test_taking_l3_away_and_back_restarts_decode_alone() -> None:
    bare = without_storage(live())
    expected = {"prefill-0": "storage", "prefill-1": "storage", "decode-0": "restart"}
    assert kinds(live(), bare) == kinds(bare, live()) == expected


def test_a_write_policy_of_a_worker_without_l3_needs_a_restart() -> None:
    """A PUT would attach it, and a DELETE takes no policy."""
    bare = without_storage(live()).process("prefill-0")
    other = with_flag(bare, WRITE, "write_back")
    assert kind_of(bare, other) is kind_of(live().process("prefill-0"), other) is Kind.RESTART


def test_a_write_policy_that_comes_with_l3_is_a_part_of_the_attach() -> None:
    bare = without_storage(live()).process("prefill-0")
    other = with_flag(live().process("prefill-0"), WRITE, "write_back")
    assert kind_of(bare, other) is Kind.STORAGE


def test_decode_that_does_not_offload_does_not_care_about_l3() -> None:
    plan = live(topology="prefill_only")
    assert "decode-0" not in kinds(plan, without_storage(plan))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("page_size=32", "page_size cannot change while the cluster serves (64 -> 32)"),
        ("model.dtype=bfloat16", "dtype cannot change while the cluster serves (float32"),
        ("decode.dtype=bfloat16", "decode: dtype cannot change"),
        ("prefill.tp=2", "prefill: tp cannot change while the cluster serves (1 -> 2)"),
        ("model.served_name=other", "served_name cannot change"),
        ("mode=prefill_only", "the mode cannot change"),
        ("name=other", "the name cannot change"),
        ("gateway.port=8123", "the gateway's address cannot change while the cluster serves"),
        ("store.segment_gb=3", "store-holder-0: the store cannot change"),
        ("store.holders=2", "store-holder-1: the store cannot change"),
        ("store.port=20500", "the store cannot change while workers are attached"),
    ],
)
def test_what_would_break_requests_is_refused_with_the_way_to_do_it(
    override: str, said: str
) -> None:
    with pytest.raises(ClusterError) as caught:
        refuse_impossible(live(), edited(live(), override))
    assert said in str(caught.value)
    assert "pdcache down full-offload" in str(caught.value)


def test_another_layout_is_refused() -> None:
    layout = ("hicache.io_backend=kernel", "hicache.layout=page_first")
    with pytest.raises(ClusterError, match=r"layout cannot change .*\(page_first_direct -> page_f"):
        refuse_impossible(live(), edited(live(), *layout))


def test_another_model_is_refused_under_the_same_name_too() -> None:
    another = edited(live(), "model.path=tiny-random", "model.served_name=smollm2-135m")
    with pytest.raises(ClusterError, match="the model cannot change"):
        refuse_impossible(live(), another)


def test_a_store_in_place_of_another_is_refused() -> None:
    before = live(topology="prefill_only")
    another = edited(before, "name=prefill-only", topology="file_backend")
    with pytest.raises(ClusterError, match="cannot change"):
        refuse_impossible(before, replace(another, name=before.name, mode=before.mode))


@pytest.mark.parametrize(
    "override",
    ["prefill.workers=3", "decode.workers=2", "prefill.max_running_requests=4",
     "prefill.hicache.prefetch_threshold=128", "gateway.prefill_policy=random"],
)  # fmt: skip
def test_with_the_same_store_everything_else_may_change(override: str) -> None:
    after = edited(live(), override)
    refuse_impossible(live(), after)
    refuse_impossible(after, live())
    refuse_impossible(live(), without_storage(after))
