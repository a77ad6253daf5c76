"""Attention of new tokens as a call of `prefill.c`.

It runs on as many threads as the calling one is given (`pdcache.sglang_cpu.cores`).
"""

from __future__ import annotations

import ctypes
import math

import torch

from pdcache.sglang_cpu.native import LANES, kernels

KEYS, QUERIES = 64, 96
"""Tokens of a block of keys, and rows of a block of queries, in `prefill.c`."""

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_long


class Extend(ctypes.Structure):
    """`struct extend` of `prefill.c`."""

    _fields_ = (
        ("query", _POINTER),
        ("apart", _COUNT),
        ("keys", _POINTER),
        ("values", _POINTER),
        ("half", ctypes.c_int),
        ("causal", ctypes.c_int),
        ("out", _POINTER),
        ("slots", _POINTER),
        *((name, _COUNT) for name in ("length", "new", "heads", "kv_heads", "dim")),
        ("scale", ctypes.c_float),
        ("packed", _POINTER),
    )


def extends(query: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> bool:
    """Whether `extend` takes a step of these, shaped as in `pdcache.sglang_cpu.attention`.

    Values are of the keys' dim and dtype, float32 or bfloat16, and heads are whole `LANES`.
    """
    return (
        query.dtype in (torch.float32, torch.bfloat16)
        and k_cache.dtype in (torch.float32, torch.bfloat16)
        and k_cache.dtype == v_cache.dtype
        and k_cache.shape == v_cache.shape
        and k_cache.is_contiguous()
        and v_cache.is_contiguous()
        and k_cache.shape[-1] % LANES == 0
        and query.shape[1] <= QUERIES * k_cache.shape[1]
    )


def extend(
    query: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    *,
    scaling: float | None,
    causal: bool,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend from one request's new tokens to its sequence: [new, query heads, dim].

    Sums are in float32 whatever the dtypes are.

    Args:
        slots: [length] int32, contiguous; the sequence's, whose last ones are the new tokens'.
        scaling: factor on the scores, None for 1/sqrt(dim).
        causal: a token sees no later one.
        out: [new, query heads, dim] of float32, contiguous, to have the result in.
    """
    new, heads, dim = query.shape
    kv_heads, length = k_cache.shape[1], len(slots)
    asked = query.float()
    if asked.stride()[1:] != (dim, 1):
        asked = asked.contiguous()
    attended = torch.empty(new, heads, dim) if out is None else out
    packed = torch.empty(2, kv_heads, -(-length // KEYS) * KEYS, dim)
    step = Extend(
        asked.data_ptr(), asked.stride(0), k_cache.data_ptr(), v_cache.data_ptr(),
        k_cache.dtype == torch.bfloat16, causal, attended.data_ptr(), slots.data_ptr(),
        length, new, heads, kv_heads, dim, 1 / math.sqrt(dim) if scaling is None else scaling,
        packed.data_ptr(),
    )  # fmt: skip
    kernels().extend(ctypes.addressof(step))
    return attended.to(query.dtype)
