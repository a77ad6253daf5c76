"""What caches of given capacities would have served of a sequence of requests.

A request is the blocks of its prompt in order. Ids are chained: an id stands for its block and
all before it, as in Mooncake's traces and in hashes of pages. A hit counts only while the chain
from the first block is unbroken. Hits are looked for before a request changes the cache.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush

from pdcache.errors import ReplayError

# A bitmap is smaller than a set of the ids that count up from 0, as those of traces do.
_BITMAP_IDS = 1 << 28


class LruCache:
    """The least recently used blocks go first, of one request the last blocks first.

    So a block is never kept without those before it, which is how a radix tree evicts.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` in blocks.

        Raises:
            ReplayError: it is under 1.
        """
        self._capacity = _checked(capacity)
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def take(self, request: Sequence[int]) -> int:
        """Blocks of the request that are hits; then the cache holds the request's blocks."""
        blocks = self._blocks
        hits = 0
        for block in request:
            if block not in blocks:
                break
            hits += 1
        for block in reversed(request):
            blocks[block] = None
            blocks.move_to_end(block)
        while len(blocks) > self._capacity:
            blocks.popitem(last=False)
        return hits


class UnlimitedCache:
    """Keeps every block; small for ids that count up from 0."""

    def __init__(self) -> None:
        self._bitmap = bytearray()
        self._others: set[int] = set()
        self._blocks = 0

    @property
    def blocks(self) -> int:
        """Different blocks that it holds."""
        return self._blocks + len(self._others)

    def take(self, request: Sequence[int]) -> int:
        """Blocks of the request that are hits; then the cache holds the request's blocks."""
        hits = 0
        for block in request:
            if not self._holds(block):
                break
            hits += 1
        for block in request[hits:]:
            self._add(block)
        return hits

    def _holds(self, block: int) -> bool:
        if block < len(self._bitmap):
            return bool(self._bitmap[block])
        return block in self._others

    def _add(self, block: int) -> None:
        bitmap = self._bitmap
        # An id far beyond those seen so far would make the bitmap larger than a set.
        if len(bitmap) <= block < min(_BITMAP_IDS, 2 * len(bitmap) + 4096):
            grown = block + 1 - len(bitmap)
            bitmap.extend(bytes(grown + len(bitmap) // 2))
            moved = {other for other in self._others if other < len(bitmap)}
            self._others -= moved
            for other in moved:
                bitmap[other] = 1
            self._blocks += len(moved)
        if block < len(bitmap):
            self._blocks += not bitmap[block]
            bitmap[block] = 1
        else:
            self._others.add(block)


def lru_hits(requests: Iterable[Sequence[int]], capacities: Sequence[int]) -> list[int]:
    """Blocks that an LRU cache of each capacity (in blocks) serves; one pass for all.

    Raises:
        ReplayError: a capacity is under 1.
    """
    caches = [LruCache(capacity) for capacity in capacities]
    hits = [0] * len(caches)
    for request in requests:
        for index, cache in enumerate(caches):
            hits[index] += cache.take(request)
    return hits


def belady_hits(requests: Iterable[Sequence[int]], capacity: int) -> int:
    """Blocks that a cache of this capacity serves at best, when it knows what will be asked.

    It keeps the blocks whose next use is nearest, and need not keep a block at all. The next use
    of a block is never before that of the blocks it stands on, so no chain is broken.

    Raises:
        ReplayError: the capacity is under 1.
    """
    return Foresight(requests).hits(capacity)


class Foresight:
    """`belady_hits` of the same requests for several capacities."""

    def __init__(self, requests: Iterable[Sequence[int]]) -> None:
        references = array("q")
        self._ends = array("q")
        for request in requests:
            references.extend(request)
            self._ends.append(len(references))
        self._following = _following(references)

    def hits(self, capacity: int) -> int:
        """Blocks that a cache of `capacity` blocks serves at best.

        Raises:
            ReplayError: the capacity is under 1.
        """
        _checked(capacity)
        following = self._following
        # A block that is kept is known by the place of its next use, which nothing else shares.
        kept: set[int] = set()
        farthest: list[int] = []
        hits = start = 0
        for end in self._ends:
            unbroken = True
            for place in range(start, end):
                if place in kept:
                    kept.remove(place)
                    hits += unbroken
                else:
                    unbroken = False
                use = following[place]
                if use < 0:
                    continue
                kept.add(use)
                heappush(farthest, -use)
                if len(kept) > capacity:
                    kept.remove(-heappop(farthest))
            start = end
        return hits


def _following(references: array[int]) -> array[int]:
    """For each place the next one with the same block, -1 for none."""
    following = array("q", bytes(8 * len(references)))
    last: dict[int, int] = {}
    for place in range(len(references) - 1, -1, -1):
        following[place] = last.get(references[place], -1)
        last[references[place]] = place
    return following


def _checked(capacity: int) -> int:
    if capacity < 1:
        raise ReplayError(
            f"the capacity is {capacity}.", where="capacity", remedy="Give blocks, 1 or more."
        )
    return capacity
