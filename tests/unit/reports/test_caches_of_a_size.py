from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdcache.reports import RunFolder
from pdcache.reports.capacity import Access, accesses, belady_hits, lru_hits, stacked
from pdcache.reports.ceilings import ceilings
from pdcache.reports.environment import Capacity, Environment

Make = Callable[..., Path]


@st.composite
def touched(draw: st.DrawFn, most: int = 7) -> list[Access]:
    """Chains out of a small tree: page 10 * parent + child, one to three pages deep."""
    found: list[Access] = []
    for index in range(draw(st.integers(1, most))):
        path = draw(st.lists(st.integers(1, 2), min_size=1, max_size=3))
        pages = tuple(itertools.accumulate(path, lambda parent, child: 10 * parent + child))
        key = (f"s{index}", 1)
        found += [Access(key, pages, False), Access(key, pages, True)]
    return found


def best_by_trying(of: Sequence[Access], capacity: int) -> int:
    """The most hits that any choice of what to keep gives."""
    states: dict[frozenset[int], int] = {frozenset(): 0}
    for access in of:
        following: dict[frozenset[int], int] = {}
        for held, hits in states.items():
            if not access.enters:
                count = 0
                while count < len(access.pages) and access.pages[count] in held:
                    count += 1
                following[held] = max(following.get(held, 0), hits + count)
                continue
            everything = held | set(access.pages)
            for size in range(min(capacity, len(everything)) + 1):
                for kept in itertools.combinations(sorted(everything), size):
                    key = frozenset(kept)
                    following[key] = max(following.get(key, 0), hits)
        states = following
    return max(states.values())


@given(touched(5), st.integers(0, 4))
def test_belady_is_the_best_there_is(of: list[Access], capacity: int) -> None:
    assert sum(belady_hits(of, capacity).values()) == best_by_trying(of, capacity)


@given(touched(), st.integers(0, 6))
def test_lru_is_at_most_belady_and_more_room_is_no_loss(of: list[Access], capacity: int) -> None:
    lru, best = (sum(hits(of, capacity).values()) for hits in (lru_hits, belady_hits))
    assert lru <= best <= sum(belady_hits(of, capacity + 1).values())


@pytest.mark.parametrize("mode", ["prefill_only", "full_offload"])
def test_without_limit_both_serve_the_ceiling(made: Make, mode: str) -> None:
    run = RunFolder.read(made(mode=mode, sessions=5, think_s=0.2))
    of = {key: own.mode // 64 for key, own in ceilings(run).items()}
    assert lru_hits(accesses(run), 10**6) == of
    assert belady_hits(accesses(run), 10**6) == of


def test_a_page_that_was_pushed_out_is_not_served() -> None:
    old, new = Access(("a", 1), (1, 11), True), Access(("b", 1), (2, 21), True)
    again = Access(("a", 2), (1, 11), False)
    assert lru_hits([old, new, again], 3) == {("a", 2): 1}
    assert lru_hits([old, new, again], 2) == {("a", 2): 0}
    assert belady_hits([old, new, again], 2) == {("a", 2): 2}


def test_a_lower_tier_holds_what_is_above_it() -> None:
    own = Environment("x", "full_offload", 64, capacity=Capacity(640, 1280, 640), prefills=2)
    assert stacked(own) == {"device": 20, "host": 40, "storage": 40}
    unknown = Environment("x", "full_offload", 64, capacity=Capacity(640, None, 6400))
    assert stacked(unknown) == {"device": 10, "host": None, "storage": None}
