"""Attention over a paged KV cache: queries of new tokens only, and no copies of KV heads.

Shapes: caches are [slots, KV heads, dim], queries and outputs [tokens, query heads, dim], where
query heads are a multiple of KV heads. `req_to_token` [requests, positions] holds the slot of
every position. What depends on the batch only is worked out once a step, for all layers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from pdcache.sglang_cpu.memory import Selector, selector
from pdcache.sglang_cpu.native import LANES, kernels
from pdcache.sglang_cpu.prefill import extend, extends


@dataclass(frozen=True)
class Suffix:
    """One request's new tokens and where its sequence lies.

    Attributes:
        new: number of new tokens, the last ones of the sequence.
        slots: [length] of the sequence, int32, contiguous.
    """

    new: int
    slots: torch.Tensor

    @functools.cached_property
    def places(self) -> Selector:
        """Selects the sequence's slots."""
        return selector(self.slots)

    @functools.cached_property
    def mask(self) -> torch.Tensor | None:
        """[new, length], True where a token may look; None without a prefix or for one token."""
        prefix = len(self.slots) - self.new
        if not prefix or self.new == 1:
            return None
        return torch.ones(self.new, prefix + self.new, dtype=torch.bool).tril_(prefix)


@dataclass(frozen=True)
class Decode:
    """One new token each of some requests.

    Attributes:
        table: [requests, positions] of slots, int32: all requests there are, `req_to_token`.
        rows, lengths: [batch], int64: each request's row of it, and the tokens of its sequence.
        scores: working memory of `decode.c`.
    """

    table: torch.Tensor
    rows: torch.Tensor
    lengths: torch.Tensor
    scores: torch.Tensor


def plan_extend(
    req_to_token: torch.Tensor,
    rows: Sequence[int],
    prefixes: Sequence[int],
    new: Sequence[int],
) -> list[Suffix]:
    """The batch's requests in order; `rows` are theirs in `req_to_token`, the rest in tokens."""
    return [
        Suffix(count, req_to_token[row, : prefix + count].int().contiguous())
        for row, prefix, count in zip(rows, prefixes, new, strict=True)
        if count
    ]


def extend_attention(
    query: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    requests: Sequence[Suffix],
    *,
    scaling: float | None,
    causal: bool,
) -> torch.Tensor:
    """Attend from each request's new tokens to its whole sequence: [tokens, query heads, dim].

    Args:
        scaling: factor on the scores, None for 1/sqrt(dim).
        causal: a token sees no later one.
    """
    native = extends(query, k_cache, v_cache)
    attended = []
    start = 0
    for request in requests:
        asked = query[start : start + request.new]
        attended.append(
            extend(asked, k_cache, v_cache, request.slots, scaling=scaling, causal=causal)
            if native
            else _by_torch(asked, k_cache, v_cache, request, scaling, causal)
        )
        start += request.new
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def _by_torch(
    query: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    request: Suffix,
    scaling: float | None,
    causal: bool,
) -> torch.Tensor:
    return (
        scaled_dot_product_attention(
            _heads_first(query),
            _heads_first(_select(k_cache, request.places).to(query.dtype)),
            _heads_first(_select(v_cache, request.places).to(query.dtype)),
            attn_mask=request.mask if causal else None,
            is_causal=causal and request.mask is None and request.new > 1,
            enable_gqa=query.shape[1] != k_cache.shape[1],
            scale=scaling,
        )
        .squeeze(0)
        .movedim(1, 0)
    )


def plan_decode(req_to_token: torch.Tensor, rows: torch.Tensor, lengths: torch.Tensor) -> Decode:
    """A step of one new token each; lengths have the new one included.

    Raises:
        ValueError: the table has no place for a request or a token; C would read beyond it.
    """
    longest = int(lengths.max())
    if longest > req_to_token.shape[1] or int(rows.max()) >= len(req_to_token):
        raise ValueError(f"{longest} tokens, row {int(rows.max())}: {[*req_to_token.shape]} slots")
    longest = -(-longest // LANES) * LANES
    return Decode(
        req_to_token.int().contiguous(),
        rows.long().contiguous(),
        lengths.long().contiguous(),
        torch.empty(4 * longest, dtype=torch.float32),
    )


def decodes(cache: torch.Tensor) -> bool:
    """Whether `decode_attention` takes a cache of such heads."""
    known = cache.dtype in (torch.float32, torch.bfloat16)
    return known and cache.is_contiguous() and cache.shape[-1] % LANES == 0


def decode_attention(
    query: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    requests: Decode,
    *,
    scaling: float | None,
) -> torch.Tensor:
    """Attend from one new token a request to its sequence: [requests, query heads, dim].

    Sums are in float32 whatever the dtypes are. Caches are read where they lie, and the query heads
    that share a KV head are taken together.
    """
    count, heads, dim = query.shape
    attended = torch.empty(query.shape, dtype=torch.float32)
    asked = query.float().contiguous()
    kernels().decode(
        asked.data_ptr(), heads * dim, k_cache.data_ptr(), v_cache.data_ptr(),
        k_cache.dtype == torch.bfloat16, attended.data_ptr(), requests.table.data_ptr(),
        requests.table.shape[1], requests.rows.data_ptr(), requests.lengths.data_ptr(),
        count, heads, k_cache.shape[1], dim,
        1 / math.sqrt(dim) if scaling is None else scaling, requests.scores.data_ptr(),
    )  # fmt: skip
    return attended.to(query.dtype)


def _select(cache: torch.Tensor, slots: Selector) -> torch.Tensor:
    """The slots' rows; `index_select` gathers faster than indexing does."""
    return cache[slots] if isinstance(slots, slice) else cache.index_select(0, slots)


def _heads_first(tokens: torch.Tensor) -> torch.Tensor:
    """[tokens, heads, dim] -> [1, heads, tokens, dim]"""
    return tokens.movedim(0, 1).unsqueeze(0)
