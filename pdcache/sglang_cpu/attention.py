"""Extend attention over the suffix only: the cost of a cache hit is the part that missed."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from pdcache.sglang_cpu.targets import Target

BACKEND = Target(
    "sglang.srt.layers.attention.torch_native_backend",
    "TorchNativeAttnBackend",
    "_run_sdpa_forward_extend",
)


def install() -> None:
    """Replace the extend step of SGLang's `torch_native` backend.

    SGLang 0.5.23 (layers/attention/torch_native_backend.py) pads the query to the whole
    sequence, so a request whose prefix is cached pays for the prefix again. Sliding windows,
    cross attention and encoder prefixes keep SGLang's own code.
    """
    original = BACKEND.get()

    def run_sdpa_forward_extend(
        self: Any,
        query: torch.Tensor,
        output: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        req_to_token: torch.Tensor,
        req_pool_indices: torch.Tensor,
        seq_lens: torch.Tensor,
        extend_prefix_lens: torch.Tensor,
        extend_seq_lens: torch.Tensor,
        encoder_lens: torch.Tensor | None = None,
        scaling: float | None = None,
        enable_gqa: bool = False,
        causal: bool = False,
        is_cross_attn: bool = False,
        sliding_window_size: int | None = None,
    ) -> torch.Tensor:
        batch = (query, output, k_cache, v_cache, req_to_token, req_pool_indices)
        lengths = (seq_lens, extend_prefix_lens, extend_seq_lens)
        windowed = sliding_window_size is not None and sliding_window_size > -1
        if windowed or is_cross_attn or encoder_lens is not None:
            return original(
                self,
                *batch,
                *lengths,
                encoder_lens,
                scaling=scaling,
                enable_gqa=enable_gqa,
                causal=causal,
                is_cross_attn=is_cross_attn,
                sliding_window_size=sliding_window_size,
            )
        return extend_attention(
            *batch, *lengths, scaling=scaling, enable_gqa=enable_gqa, causal=causal
        )

    BACKEND.set(run_sdpa_forward_extend)


def extend_attention(
    query: torch.Tensor,
    output: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    req_to_token: torch.Tensor,
    req_pool_indices: torch.Tensor,
    seq_lens: torch.Tensor,
    extend_prefix_lens: torch.Tensor,
    extend_seq_lens: torch.Tensor,
    *,
    scaling: float | None,
    enable_gqa: bool,
    causal: bool,
) -> torch.Tensor:
    """Attend from each request's new tokens to its whole sequence; fills and returns `output`.

    Args:
        query, output: [new tokens of all requests, query heads, dim]
        k_cache, v_cache: [slots, KV heads, dim]
        req_to_token: [requests, positions], the slot of every position
        req_pool_indices: [batch], each request's row of `req_to_token`
        seq_lens, extend_prefix_lens, extend_seq_lens: [batch], in tokens; sequence = prefix + new
        scaling: factor on the scores, None for 1/sqrt(dim)
        enable_gqa: query heads are a multiple of KV heads
        causal: a token sees no later one
    """
    requests = (req_pool_indices, seq_lens, extend_prefix_lens, extend_seq_lens)
    start = 0
    for row, length, prefix, new in zip(*(part.tolist() for part in requests), strict=True):
        slots = req_to_token[row, :length]
        queries = query[start : start + new]
        attended = scaled_dot_product_attention(
            _heads_first(queries),
            _heads_first(k_cache[slots].to(query.dtype)),
            _heads_first(v_cache[slots].to(query.dtype)),
            attn_mask=_suffix_mask(prefix, new) if causal and prefix and new > 1 else None,
            is_causal=causal and not prefix,
            enable_gqa=enable_gqa,
            scale=scaling,
        )
        output[start : start + new] = attended.squeeze(0).movedim(1, 0)
        start += new
    return output


def _heads_first(tokens: torch.Tensor) -> torch.Tensor:
    """[tokens, heads, dim] -> [1, heads, tokens, dim]"""
    return tokens.movedim(0, 1).unsqueeze(0)


def _suffix_mask(prefix: int, new: int) -> torch.Tensor:
    """[new, prefix + new], True where new token i may look: positions 0 to prefix + i."""
    return torch.ones(new, prefix + new, dtype=torch.bool).tril_(prefix)
