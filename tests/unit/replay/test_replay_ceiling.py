from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdcache.errors import ReplayError
from pdcache.replay import CacheMode, CeilingTracker
from pdcache.replay.ceiling import PageChain

PROMPT = list(range(100, 110))
ANSWER = list(range(200, 208))
NEXT = [*PROMPT, *ANSWER, 300, 301, 302]


class Tracker:
    """A `CeilingTracker` over tokens."""

    def __init__(self, page_size: int, mode: CacheMode) -> None:
        self._page_size = page_size
        self._tracker = CeilingTracker(page_size, mode)

    def at_send(self, prompt: Sequence[int]) -> int:
        return self._tracker.at_send(PageChain(self._page_size, prompt).ids, len(prompt))

    def finished(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        chain = PageChain(self._page_size, prompt)
        pages = list(chain.ids)
        chain.extend(answer[:-1])
        self._tracker.finished(pages, chain.ids[len(pages) :])


@pytest.mark.parametrize(("mode", "ceiling"), [("prefill_only", 8), ("full_offload", 16)])
def test_the_second_turn_of_a_dialogue(mode: CacheMode, ceiling: int) -> None:
    # Pages of 4. Prompt 10 tokens: 2 whole pages. Prompt + answer less its last: 17, 4 pages.
    tracker = Tracker(4, mode)
    assert tracker.at_send(PROMPT) == 0
    tracker.finished(PROMPT, ANSWER)
    assert tracker.at_send(NEXT) == ceiling


def test_the_last_sampled_token_has_no_kv() -> None:
    # 4 + 4 tokens would fill two pages, but the eighth was never run through the model.
    tracker = Tracker(4, "full_offload")
    tracker.finished([1, 2, 3, 4], [5, 6, 7, 8])
    assert tracker.at_send([1, 2, 3, 4, 5, 6, 7, 8, 9]) == 4


def test_the_last_prompt_token_is_always_computed() -> None:
    tracker = Tracker(4, "prefill_only")
    tracker.finished(list(range(8)), [])
    assert tracker.at_send(list(range(8))) == 4
    assert tracker.at_send(list(range(9))) == 8


def test_pages_of_one_token_count_every_token_but_the_last() -> None:
    tracker = Tracker(1, "prefill_only")
    tracker.finished([1, 2, 3], [4])
    assert tracker.at_send([1, 2, 3]) == 2
    assert tracker.at_send([1, 2, 9, 9]) == 2


def test_a_shared_system_prompt_counts_across_sessions() -> None:
    system = list(range(1000, 1009))
    tracker = Tracker(4, "prefill_only")
    tracker.finished([*system, 1, 2, 3, 4, 5, 6], [7])
    assert tracker.at_send([*system, 11, 12, 13, 14, 15, 16]) == 8


def test_equal_pages_behind_other_prefixes_do_not_count() -> None:
    tracker = Tracker(2, "prefill_only")
    tracker.finished([1, 1, 5, 6], [])
    assert tracker.at_send([2, 2, 5, 6, 7]) == 0


def test_a_request_still_running_does_not_count() -> None:
    tracker = Tracker(4, "full_offload")
    tracker.at_send(PROMPT)
    assert tracker.at_send(NEXT) == 0


def test_an_empty_prompt_has_a_ceiling_of_zero() -> None:
    assert Tracker(4, "prefill_only").at_send([]) == 0


def brute_force(
    page: int, mode: str, seen: list[tuple[list[int], list[int]]], prompt: Sequence[int]
) -> int:
    best = 0
    for earlier, answer in seen:
        known = earlier + (answer[:-1] if mode == "full_offload" else [])
        common = 0
        while common < min(len(known), len(prompt)) and known[common] == prompt[common]:
            common += 1
        best = max(best, min(common, len(prompt) - 1) // page * page)
    return best


TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=12)


@given(
    page=st.integers(1, 4),
    mode=st.sampled_from(["prefill_only", "full_offload"]),
    requests=st.lists(st.tuples(TOKENS, TOKENS), max_size=12),
)
def test_it_equals_a_comparison_with_every_earlier_request(
    page: int, mode: CacheMode, requests: list[tuple[list[int], list[int]]]
) -> None:
    tracker = Tracker(page, mode)
    for index, (prompt, answer) in enumerate(requests):
        assert tracker.at_send(prompt) == brute_force(page, mode, requests[:index], prompt)
        tracker.finished(prompt, answer)


@given(st.integers(1, 5), st.lists(st.lists(st.integers(0, 9), max_size=9), max_size=6))
def test_a_chain_does_not_depend_on_how_its_tokens_came(page: int, parts: list[list[int]]) -> None:
    grown = PageChain(page)
    for part in parts:
        grown.extend(part)
    whole = [token for part in parts for token in part]
    assert grown.ids == PageChain(page, whole).ids
    assert len(grown.ids) == len(whole) // page
    assert all(0 <= number < 2**63 for number in grown.ids)


def test_an_impossible_page_size_or_mode_is_refused() -> None:
    with pytest.raises(ReplayError, match="page_size is 0"):
        CeilingTracker(0, "prefill_only")
    with pytest.raises(ReplayError, match="full_offload"):
        CeilingTracker(4, "offload")  # type: ignore[arg-type]
