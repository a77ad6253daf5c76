from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdcache.errors import ReplayError
from pdcache.reports import compare, read_groups
from pdcache.reports.comparison_page import finding
from pdcache.reports.statistics import Estimate, estimate

Make = Callable[..., Path]


def test_the_interval_is_students() -> None:
    # 1, 2, 3: mean 2, standard deviation 1, t(2) = 4.303.
    found = estimate([1.0, 2.0, 3.0])
    assert found is not None
    assert found.mean == 2.0
    assert found.high == pytest.approx(2.0 + 4.303 / math.sqrt(3))
    assert estimate([5.0]) == Estimate(5.0, None, None, 1)
    assert estimate([]) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
def test_an_interval_lies_around_its_mean(values: list[float]) -> None:
    found = estimate(values)
    assert found is not None and found.low is not None and found.high is not None
    assert found.low <= found.mean <= found.high
    assert found.mean - found.low == pytest.approx(found.high - found.mean, abs=1e-6)
    assert not found.apart_from(found)


def test_repetitions_of_a_label_are_one_group(made: Make) -> None:
    folders = [made(f"full/{i}", seed=i) for i in range(2)] + [made("plain", mode="prefill_only")]
    comparison = compare(read_groups(folders))
    assert [(group["label"], group["runs"]) for group in comparison["groups"]] == [
        ("full", 2),
        ("plain", 1),
    ]
    ttft = comparison["groups"][0]["numbers"]["ttft_p50_s"]
    assert ttft["low"] < ttft["mean"] < ttft["high"]
    assert comparison["groups"][1]["numbers"]["ttft_p50_s"]["low"] is None


def test_groups_of_one_name_go_by_their_paths(made: Make) -> None:
    folders = [made("a/full"), made("b/full")]
    assert list(read_groups(folders)) == [str(folder) for folder in folders]


def test_a_folder_given_twice_is_refused(made: Make) -> None:
    folder = made()
    with pytest.raises(ReplayError, match="given twice"):
        read_groups([folder, folder])


def test_answers_are_compared_between_groups_and_within(made: Make) -> None:
    same = [made("a/0"), made("a/1"), made("b", mode="prefill_only")]
    comparison = compare(read_groups(same))
    assert comparison["differences"] == {"b": []}
    assert comparison["same_answers_within"] == {"a": True}
    other = compare(read_groups([made("c"), made("d/0", seed=1), made("d/1", seed=2)]))
    assert other["differences"]["d"][0] == {"session": "s1", "turn": 1, "position": 0}
    assert other["same_answers_within"] == {"d": False}


def test_what_lies_apart_from_the_first_is_marked(made: Make) -> None:
    folders = [
        made(f"{name}/{i}", seed=i, **changes)
        for name, changes in {"none": {"reuse": False}, "full": {}, "again": {}}.items()
        for i in range(3)
    ]  # fmt: skip
    comparison = compare(read_groups(folders))
    none, full, again = (group["numbers"]["ttft_p50_s"] for group in comparison["groups"])
    assert (none["differs_from_first"], full["differs_from_first"]) == (False, True)
    assert full["factor_of_first"] == pytest.approx(full["mean"] / none["mean"])
    assert again["mean"] == full["mean"]
    told = finding(comparison)
    assert "came soonest in full" in told
    assert "1.00 times that in again (not apart)" in told


def test_losses_of_a_group_are_those_of_a_run(made: Make) -> None:
    folders = [made(f"low/{i}", seed=i, threshold=256) for i in range(3)]
    losses = compare(read_groups(folders))["groups"][0]["losses"]
    # Three answers of 1.5 pages a session, of three sessions; each run lost as much.
    assert losses["below_threshold_tokens"] == 1152
    assert losses["ceiling_tokens"] - 1152 == losses["served_tokens"]
