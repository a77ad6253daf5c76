"""What is in a trace, and what caches could make of it."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pdcache.traces.cache_curve import Foresight, LruCache, UnlimitedCache
from pdcache.traces.request import TraceRequest

CAPACITIES = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)

# The optimum looks ahead, so it needs all references at a time: some 100 bytes each.
OPTIMAL_MOST = 1_000_000


@dataclass(frozen=True)
class Lengths:
    """How long prompts or answers are, in tokens (characters of texts without a tokenizer)."""

    total: int = 0
    mean: float = 0.0
    p50: int = 0
    p90: int = 0
    p99: int = 0
    max: int = 0

    @classmethod
    def of(cls, counts: Counter[int]) -> Lengths:
        """From how often each length occurs."""
        number = counts.total()
        if not number:
            return cls()
        total = sum(length * times for length, times in counts.items())
        shares = (0.5, 0.9, 0.99)
        ranks = [max(1, -(-number * round(share * 100) // 100)) for share in shares]
        found: list[int] = []
        passed = 0
        for length in sorted(counts):
            passed += counts[length]
            while len(found) < len(ranks) and passed >= ranks[len(found)]:
                found.append(length)
        p50, p90, p99 = found
        return cls(total, total / number, p50, p90, p99, max(counts))


@dataclass(frozen=True)
class TraceStats:
    """Counts, and the shares (0 to 1) of block references or prompt tokens that caches serve.

    A share is None where the trace does not tell contents.

    Attributes:
        input_tokens: of prompts; None for texts without a tokenizer.
        input_characters: what each turn of such texts adds.
        block_refs: blocks of all prompts.
        unique_blocks: different ones among them.
        ceiling_blocks: share of blocks that an unlimited cache serves.
        ceiling_tokens: share of prompt tokens that it serves.
        page_size: tokens a page of `ceiling_pages`, None when not asked for.
        ceiling_pages: share of prompt tokens that it serves in whole pages, when the last token
            of a prompt is always computed.
        lru: share of blocks by capacity in blocks.
        optimal: the same for the best any cache of that capacity could do; empty for traces of
            more than `OPTIMAL_MOST` block references, unless told otherwise.
    """

    requests: int
    span_s: float
    input_tokens: Lengths | None
    input_characters: Lengths | None
    output_tokens: Lengths
    block_size: int | None
    block_refs: int
    unique_blocks: int
    ceiling_blocks: float | None
    ceiling_tokens: float | None
    page_size: int | None
    ceiling_pages: float | None
    lru: dict[int, float] = field(default_factory=dict)
    optimal: dict[int, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "schema": 1,
            "requests": self.requests,
            "span_s": self.span_s,
            "input_tokens": self.input_tokens and vars(self.input_tokens),
            "input_characters": self.input_characters and vars(self.input_characters),
            "output_tokens": vars(self.output_tokens),
            "block_size": self.block_size,
            "block_refs": self.block_refs,
            "unique_blocks": self.unique_blocks,
            "ceiling_blocks": self.ceiling_blocks,
            "ceiling_tokens": self.ceiling_tokens,
            "page_size": self.page_size,
            "ceiling_pages": self.ceiling_pages,
            "lru": {str(capacity): share for capacity, share in self.lru.items()},
            "optimal": {str(capacity): share for capacity, share in self.optimal.items()},
        }


def trace_stats(
    requests: Iterable[TraceRequest],
    block_size: int | None,
    capacities: Sequence[int] = CAPACITIES,
    page_size: int | None = None,
    optimal_most: int = OPTIMAL_MOST,
) -> TraceStats:
    """Look at each request once, in the order in which they arrive.

    Args:
        requests: of the trace.
        block_size: tokens a block of their content ids; None when lengths are characters.
        capacities: of the caches, in blocks.
        page_size: tokens a page of `ceiling_pages`.
        optimal_most: block references up to which `optimal` is computed.

    Raises:
        ReplayError: a capacity is under 1.
    """
    inputs: Counter[int] = Counter()
    outputs: Counter[int] = Counter()
    unlimited = UnlimitedCache()
    caches = {capacity: LruCache(capacity) for capacity in sorted(set(capacities))}
    lru_hits = dict.fromkeys(caches, 0)
    refs = hit_blocks = hit_tokens = page_tokens = 0
    first_s, last_s = float("inf"), float("-inf")
    kept: list[array[int]] = []
    for request in requests:
        tokens = request.input_tokens
        inputs[tokens] += 1
        outputs[request.output_tokens] += 1
        if request.at_s is not None:
            first_s, last_s = min(first_s, request.at_s), max(last_s, request.at_s)
        if request.blocks is None or block_size is None:
            continue
        refs += len(request.blocks)
        hits = unlimited.take(request.blocks)
        hit_blocks += hits
        hit_tokens += min(hits * block_size, tokens)
        if page_size is not None:
            page_tokens += min(hits * block_size, tokens - 1) // page_size * page_size
        for capacity, cache in caches.items():
            lru_hits[capacity] += cache.take(request.blocks)
        if refs <= optimal_most:
            kept.append(array("q", request.blocks))
        else:
            kept.clear()
    lengths = Lengths.of(inputs)
    told = refs > 0
    optimal = _optimal(kept, list(caches), hit_blocks) if kept else {}
    return TraceStats(
        requests=inputs.total(),
        span_s=max(0.0, last_s - first_s),
        input_tokens=None if block_size is None else lengths,
        input_characters=lengths if block_size is None else None,
        output_tokens=Lengths.of(outputs),
        block_size=block_size,
        block_refs=refs,
        unique_blocks=unlimited.blocks,
        ceiling_blocks=hit_blocks / refs if told else None,
        ceiling_tokens=hit_tokens / lengths.total if told else None,
        page_size=page_size,
        ceiling_pages=page_tokens / lengths.total if told and page_size is not None else None,
        lru={capacity: hits / refs for capacity, hits in lru_hits.items()} if told else {},
        optimal={capacity: hits / refs for capacity, hits in optimal.items()},
    )


def _optimal(requests: Sequence[Sequence[int]], capacities: list[int], most: int) -> dict[int, int]:
    """Hits by capacity; from where they reach `most`, more capacity cannot add any."""
    foresight = Foresight(requests)
    hits: dict[int, int] = {}
    last = -1
    for capacity in capacities:
        last = last if last == most else foresight.hits(capacity)
        hits[capacity] = last
    return hits
