from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_run

from pdcache.reports import RunFolder, build_report
from pdcache.reports.environment import Capacity, Environment
from pdcache.reports.history import Evidence, Gap, Origin
from pdcache.reports.losses import NAMES, RULES, claims, losses
from pdcache.reports.timeline import Counter

Make = Callable[..., Path]

GAP = Gap(("s1", 2), sent_s=10.0, first_token_s=11.0, prefill="prefill-0", above_tokens=256,
          storage_tokens=0, lost_tokens=128, page=7, index=4,
          origin=Origin(sent_s=2.0, finished_s=5.0, answer=False, tokens_before=256))  # fmt: skip
KNOWN = Evidence(Environment("x", "full_offload", 64, prefetch_threshold=64))


def lost_by(run: RunFolder) -> dict[str, int]:
    """Losses of a run that are not 0."""
    report = build_report(run)["losses"]
    return {name: report[f"{name}_tokens"] for name in NAMES if report[f"{name}_tokens"]}


MADE = st.fixed_dictionaries({
    "mode": st.sampled_from(["prefill_only", "full_offload"]),
    "sessions": st.integers(1, 4), "turns": st.integers(1, 4), "first": st.integers(1, 400),
    "question": st.integers(1, 90), "answer": st.integers(1, 150),
    "threshold": st.sampled_from([64, 256]), "l1_pages": st.sampled_from([2, 8, 1000]),
    "write_s": st.sampled_from([0.0, 3.0]), "think_s": st.sampled_from([0.0, 2.0]),
    "store_down": st.sampled_from([(-1.0, -1.0), (1.0, 6.0)]),
    "retokenise": st.sampled_from([0, 1]),
    "flush": st.booleans(), "wandering": st.booleans(), "reuse": st.booleans(),
    "seed": st.integers(0, 3),
})  # fmt: skip


@given(MADE)
def test_the_names_sum_to_what_was_offered_less_what_was_served(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    run = RunFolder.read(make_run(tmp_path_factory.mktemp("made"), **changes))
    for own in losses(run).values():
        assert all(tokens >= 0 for tokens in own.named.values())
        assert own.offered - sum(own.named.values()) == own.served
        below = sum(own.named[name] for name in (*RULES, "unexplained"))
        assert own.ceiling - below == own.served
    report = build_report(run)
    told = report["losses"]
    assert told["offered_tokens"] - sum(told[f"{n}_tokens"] for n in NAMES) == told["served_tokens"]
    hits = sum(sum(turn["cached_tokens"].values()) for turn in report["turns"])
    assert told["served_tokens"] + told["over_ceiling_tokens"] == hits


@given(st.integers(0, 500), st.lists(st.integers(-50, 600), max_size=5))
def test_rules_cannot_claim_more_than_there_is(lost: int, wishes: list[int]) -> None:
    rules = {f"r{i}": lambda gap, known, wish=wish: wish for i, wish in enumerate(wishes)}
    claimed = claims(replace(GAP, lost_tokens=lost), KNOWN, rules)
    assert sum(claimed.values()) == lost
    assert min(claimed.values()) >= 0


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"page_tail"}),
        ({"mode": "prefill_only"}, {"page_tail", "answers_not_kept"}),
        ({"threshold": 256}, {"page_tail", "below_threshold"}),
        ({"store_down": (5.0, 9.0)}, {"page_tail", "store_down"}),
        ({"retokenise": 96}, {"retokenised"}),
        ({"reuse": False}, {"page_tail", "reuse_off"}),
        ({"flush": True, "think_s": 0.1, "write_s": 0.6}, {"page_tail", "not_yet_written"}),
        ({"write_s": 50.0}, {"page_tail", "unexplained"}),
    ],
)
def test_what_happened_to_a_made_cluster_is_named(
    made: Make, changes: dict[str, Any], names: set[str]
) -> None:
    assert set(lost_by(RunFolder.read(made(**changes)))) == names


def test_a_loss_that_nothing_recorded_explains_is_shown() -> None:
    assert claims(GAP, KNOWN) == {**dict.fromkeys(RULES, 0), "unexplained": 128}


@pytest.mark.parametrize(
    ("name", "gap", "known"),
    [
        ("reuse_off", GAP,
         replace(KNOWN, environment=replace(KNOWN.environment, spec={"reuse": False}))),
        ("wrong_worker", replace(GAP, holders=frozenset({"prefill-1"})),
         replace(KNOWN, environment=replace(KNOWN.environment, capacity=Capacity(9, 9, 0)))),
        ("store_down", GAP, replace(KNOWN, store_outages=((9.0, 10.5),))),
        ("store_down", GAP, replace(KNOWN, store_outages=((4.0, 5.5),))),
        ("store_down", GAP, replace(KNOWN, unwritten=Counter(((1.0, 0.0), (4.0, 64.0))))),
        ("below_threshold", GAP,
         replace(KNOWN, environment=replace(KNOWN.environment, prefetch_threshold=256))),
        ("not_yet_written", replace(GAP, sent_s=5.5), KNOWN),
        ("not_yet_written", GAP, replace(KNOWN, written=Counter(((0.0, 0.0), (20.0, 0.0))))),
        ("read_cut_short", GAP, replace(KNOWN, cut_reads=Counter(((9.0, 0.0), (12.0, 128.0))))),
        ("evicted", GAP, replace(KNOWN, lru_pages={("s1", 2): 4})),
        ("evicted", GAP, replace(KNOWN, store_evictions=Counter(((6.0, 0.0), (9.0, 5.0))))),
    ],
)  # fmt: skip
def test_each_rule_claims_its_own(name: str, gap: Gap, known: Evidence) -> None:
    assert claims(gap, known)[name] == 128


@pytest.mark.parametrize(
    "known",
    [
        replace(KNOWN, store_outages=((6.5, 9.0),)),
        replace(KNOWN, lru_pages={("s1", 2): 5}),
        replace(KNOWN, cut_reads=Counter(((1.0, 0.0), (9.0, 128.0), (12.0, 128.0)))),
        replace(KNOWN, unwritten=Counter(((1.0, 0.0), (4.0, 64.0), (12.0, 0.0)))),
        replace(KNOWN, store_evictions=Counter(((1.0, 0.0), (4.0, 5.0), (20.0, 5.0)))),
        replace(KNOWN, written=Counter(((0.0, 0.0), (3.0, 0.0), (9.0, 256.0)))),
    ],
)
def test_no_rule_claims_what_its_evidence_does_not_cover(known: Evidence) -> None:
    assert claims(GAP, known)["unexplained"] == 128
