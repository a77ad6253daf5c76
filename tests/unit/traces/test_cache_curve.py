from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdcache.errors import ReplayError
from pdcache.traces.cache_curve import UnlimitedCache, belady_hits, lru_hits

Requests = list[list[int]]


def chained(paths: Sequence[Sequence[int]]) -> Requests:
    """Ids of the nodes on each path of a tree: equal ids have equal ids before them."""
    nodes: dict[tuple[int, ...], int] = {}
    return [
        [nodes.setdefault(tuple(path[: at + 1]), len(nodes)) for at in range(len(path))]
        for path in paths
    ]


paths = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), max_size=25)
small_paths = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=3), max_size=6)
capacities = st.integers(1, 12)


def naive_lru(requests: Requests, capacity: int) -> int:
    """A list of blocks, the most recently used one first."""
    recent: list[int] = []
    hits = 0
    for request in requests:
        for block in request:
            if block not in recent:
                break
            hits += 1
        recent = request + [block for block in recent if block not in request]
        recent = recent[:capacity]
    return hits


def best_of_all(requests: Requests, capacity: int) -> int:
    """The best of all ways to choose what stays, each tried."""
    best: dict[frozenset[int], int] = {frozenset(): 0}
    for request in requests:
        after: dict[frozenset[int], int] = {}
        for kept, hits in best.items():
            for block in request:
                if block not in kept:
                    break
                hits += 1
            could = sorted(kept | set(request))
            for stays in combinations(could, min(capacity, len(could))):
                choice = frozenset(stays)
                after[choice] = max(after.get(choice, 0), hits)
        best = after
    return max(best.values())


@given(paths=paths, capacity=capacities)
def test_lru_hits_are_those_of_a_naive_list(paths: Requests, capacity: int) -> None:
    requests = chained(paths)
    assert lru_hits(requests, [capacity, 1]) == [
        naive_lru(requests, capacity),
        naive_lru(requests, 1),
    ]


@given(paths=small_paths, capacity=st.integers(1, 4))
def test_belady_is_the_best_there_is(paths: Requests, capacity: int) -> None:
    requests = chained(paths)
    assert belady_hits(requests, capacity) == best_of_all(requests, capacity)


@given(paths=paths, capacity=capacities)
def test_lru_is_never_better_than_belady_nor_belady_than_an_unlimited_cache(
    paths: Requests, capacity: int
) -> None:
    requests = chained(paths)
    unlimited = UnlimitedCache()
    ceiling = sum(unlimited.take(request) for request in requests)
    assert lru_hits(requests, [capacity])[0] <= belady_hits(requests, capacity) <= ceiling
    assert lru_hits(requests, [10_000])[0] == belady_hits(requests, 10_000) == ceiling


@given(paths=paths)
def test_more_capacity_never_hurts(paths: Requests) -> None:
    requests = chained(paths)
    hits = lru_hits(requests, range(1, 13))
    assert hits == sorted(hits)
    optimal = [belady_hits(requests, capacity) for capacity in range(1, 13)]
    assert optimal == sorted(optimal)


@given(
    requests=st.lists(
        st.lists(st.integers(0, 9000) | st.integers(0, 2**63 - 1), min_size=1, max_size=8),
        max_size=12,
    )
)
def test_the_unlimited_cache_counts_as_a_set_does(requests: Requests) -> None:
    cache, seen = UnlimitedCache(), set[int]()
    for request in requests:
        known = [block in seen for block in request]
        assert cache.take(request) == [*known, False].index(False)
        seen.update(request)
        assert cache.blocks == len(seen)


def test_ids_that_count_up_take_about_a_byte_each() -> None:
    cache = UnlimitedCache()
    for first in range(0, 1_000_000, 100):
        cache.take(range(first, first + 100))
    assert cache.blocks == 1_000_000
    assert len(cache._bitmap) < 2_000_000
    assert not cache._others


def test_a_block_behind_a_missing_one_is_no_hit() -> None:
    assert lru_hits([[1, 2, 3], [9, 2, 3]], [10]) == [0]
    assert belady_hits([[1, 2, 3], [9, 2, 3]], 10) == 0


def test_of_one_request_the_first_blocks_stay() -> None:
    assert lru_hits([[1, 2, 3], [1, 2, 3]], [2]) == [2]


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_cache_without_room_is_refused(capacity: int) -> None:
    with pytest.raises(ReplayError, match=f"capacity is {capacity}"):
        lru_hits([[1]], [capacity])
    with pytest.raises(ReplayError, match=f"capacity is {capacity}"):
        belady_hits([[1]], capacity)
