"""Attention over a paged KV cache: queries of new tokens only, and no copies of KV heads.

Shapes: caches are [slots, KV heads, dim], queries and outputs [tokens, query heads, dim], where
query heads are a multiple of KV heads. `req_to_token` [requests, positions] holds the slot of
every position. What depends on the batch only is worked out once a step, for all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from pdcache.sglang_cpu.memory import Selector, selector

SPARE_TOKENS = 256
"""Padding a decode group may hold: attending to it costs about as much as one more call."""

GROUP_TOKENS = 2048
"""Tokens of a decode group, so that its gathered KV stays in a core's L2 (1-2 MB)."""


@dataclass(frozen=True)
class Suffix:
    """One request's new tokens: where its sequence lies, and what each of them sees.

    Attributes:
        new: number of new tokens, the last ones of the sequence.
        slots: selects the sequence's slots.
        mask: [new, length], True where a token may look; None when the prefix is empty or when
            there is one new token.
    """

    new: int
    slots: Selector
    mask: torch.Tensor | None


@dataclass(frozen=True)
class DecodeGroup:
    """Requests that decode in one call, the shorter ones padded to the longest.

    Attributes:
        members: their rows in the batch; None for the whole batch in its order.
        size, longest: requests, and tokens of the longest.
        slots: selects size x longest slots; a padded position repeats its request's last slot.
        visible: [size, 1, 1, longest], False at padding; None without padding.
    """

    members: torch.Tensor | None
    size: int
    longest: int
    slots: Selector
    visible: torch.Tensor | None


def plan_extend(
    req_to_token: torch.Tensor,
    rows: Sequence[int],
    prefixes: Sequence[int],
    new: Sequence[int],
) -> list[Suffix]:
    """The batch's requests in order; `rows` are theirs in `req_to_token`, the rest in tokens."""
    return [
        Suffix(
            count,
            selector(req_to_token[row, : prefix + count]),
            _suffix_mask(prefix, count) if prefix and count > 1 else None,
        )
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
    attended = []
    start = 0
    for request in requests:
        end = start + request.new
        attended.append(
            scaled_dot_product_attention(
                _heads_first(query[start:end]),
                _heads_first(_select(k_cache, request.slots).to(query.dtype)),
                _heads_first(_select(v_cache, request.slots).to(query.dtype)),
                attn_mask=request.mask if causal else None,
                is_causal=causal and request.mask is None and request.new > 1,
                enable_gqa=query.shape[1] != k_cache.shape[1],
                scale=scaling,
            )
            .squeeze(0)
            .movedim(1, 0)
        )
        start = end
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def plan_decode(
    req_to_token: torch.Tensor, rows: torch.Tensor, lengths: Sequence[int]
) -> list[DecodeGroup]:
    """Groups of requests that decode together; each request of the batch is in one of them.

    Args:
        rows: [batch], each request's row of `req_to_token`.
        lengths: tokens of each sequence, the new one included.
    """
    groups = _alike(lengths)
    if len(groups) == 1:
        return [_decode_group(req_to_token, rows, lengths, None)]
    return [
        _decode_group(req_to_token, rows[group], [lengths[one] for one in group], group)
        for group in map(torch.tensor, groups)
    ]


def decode_attention(
    query: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    groups: Sequence[DecodeGroup],
    *,
    scaling: float | None,
) -> torch.Tensor:
    """Attend from one new token a request to its sequence: [requests, query heads, dim].

    The query heads that share a KV head stand where the tokens of a query do, so one product
    serves them all and KV heads need not be repeated.
    """
    if groups[0].members is None:
        return _attend_group(query, k_cache, v_cache, groups[0], scaling)
    attended = torch.empty_like(query)
    for group in groups:
        attended[group.members] = _attend_group(
            query[group.members], k_cache, v_cache, group, scaling
        )
    return attended


def _attend_group(
    query: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    group: DecodeGroup,
    scaling: float | None,
) -> torch.Tensor:
    _, query_heads, dim = query.shape
    kv_heads = k_cache.shape[1]
    padded = (group.size, group.longest, kv_heads, dim)
    return scaled_dot_product_attention(
        query.view(group.size, kv_heads, query_heads // kv_heads, dim),
        _select(k_cache, group.slots).to(query.dtype).view(padded).transpose(1, 2),
        _select(v_cache, group.slots).to(query.dtype).view(padded).transpose(1, 2),
        attn_mask=group.visible,
        scale=scaling,
    ).reshape(group.size, query_heads, dim)


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of `lengths`, those together whose padding and size stay within bounds."""
    groups: list[list[int]] = []
    total = 0
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        length = lengths[index]
        padded = (len(groups[-1]) + 1) * length if groups else 0
        if groups and padded <= GROUP_TOKENS and padded - total - length <= SPARE_TOKENS:
            groups[-1].append(index)
        else:
            groups.append([index])
            total = 0
        total += length
    return groups


def _decode_group(
    req_to_token: torch.Tensor,
    rows: torch.Tensor,
    lengths: Sequence[int],
    members: torch.Tensor | None,
) -> DecodeGroup:
    size, longest = len(lengths), max(lengths)
    if size == 1:
        return DecodeGroup(members, 1, longest, selector(req_to_token[rows[0], :longest]), None)
    positions = torch.arange(longest)
    ends = torch.tensor(lengths).unsqueeze(1)
    slots = req_to_token[rows.unsqueeze(1), torch.minimum(positions, ends - 1)].view(-1)
    visible = None if min(lengths) == longest else (positions < ends).view(size, 1, 1, longest)
    return DecodeGroup(members, size, longest, slots, visible)


def _select(cache: torch.Tensor, slots: Selector) -> torch.Tensor:
    """The slots' rows; `index_select` gathers faster than indexing does."""
    return cache[slots] if isinstance(slots, slice) else cache.index_select(0, slots)


def _heads_first(tokens: torch.Tensor) -> torch.Tensor:
    """[tokens, heads, dim] -> [1, heads, tokens, dim]"""
    return tokens.movedim(0, 1).unsqueeze(0)


def _suffix_mask(prefix: int, new: int) -> torch.Tensor:
    """[new, prefix + new], True where new token i may look: positions 0 to prefix + i."""
    return torch.ones(new, prefix + new, dtype=torch.bool).tril_(prefix)
