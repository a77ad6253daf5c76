"""Attention of new tokens, and what layers do around products, as calls of `prefill.c`.

They run on as many threads as the calling one is given (`pdcache.sglang_cpu.cores`).
"""

from __future__ import annotations

import ctypes
import math

import torch

from pdcache.sglang_cpu.native import LANES, has_wide_vectors, kernels

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

    Values are of the keys' dim and dtype, float32 or bfloat16, and heads are whole `LANES`. Without
    AVX-512 torch is faster: 33 ms for 1,087 tokens of SmolLM2-135M, and 157 in C.
    """
    return (
        has_wide_vectors()
        and query.dtype in (torch.float32, torch.bfloat16)
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
) -> torch.Tensor:
    """Attend from one request's new tokens to its sequence: [new, query heads, dim].

    Sums are in float32 whatever the dtypes are.

    Args:
        slots: [length] int32, contiguous; the sequence's, whose last ones are the new tokens'.
        scaling: factor on the scores, None for 1/sqrt(dim).
        causal: a token sees no later one.
    """
    new, heads, dim = query.shape
    kv_heads, length = k_cache.shape[1], len(slots)
    asked = query.float()
    if asked.stride()[1:] != (dim, 1):
        asked = asked.contiguous()
    attended = torch.empty(new, heads, dim)
    packed = torch.empty(2, kv_heads, -(-length // KEYS) * KEYS, dim)
    step = Extend(
        asked.data_ptr(), asked.stride(0), k_cache.data_ptr(), v_cache.data_ptr(),
        k_cache.dtype == torch.bfloat16, causal, attended.data_ptr(), slots.data_ptr(),
        length, new, heads, kv_heads, dim, 1 / math.sqrt(dim) if scaling is None else scaling,
        packed.data_ptr(),
    )  # fmt: skip
    kernels().extend(ctypes.addressof(step))
    return attended.to(query.dtype)


def whole(*tensors: torch.Tensor) -> bool:
    """Whether the functions below take these: float32, packed, and rows of whole `LANES`."""
    return all(
        tensor.dtype == torch.float32 and tensor.is_contiguous() and not tensor.shape[-1] % LANES
        for tensor in tensors
    )


def add_norm_(
    added: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """Add to the residual in place, both [tokens, size]; the RMS norm of that."""
    result = torch.empty_like(added)
    kernels().add_norm_rows(
        added.data_ptr(), residual.data_ptr(), weight.data_ptr(), epsilon, result.data_ptr(),
        *added.shape,
    )  # fmt: skip
    return result


def rotate_(heads: torch.Tensor, count: int, angles: torch.Tensor) -> None:
    """Turn the first `count` heads of [tokens, heads, dim] in place: halves x, y of a head become
    x cos - y sin, y cos + x sin, by `angles` [tokens, dim], dim / 2 cosines and their sines."""
    tokens, each, dim = heads.shape
    kernels().rotate_rows(heads.data_ptr(), tokens, each * dim, count, dim, angles.data_ptr())


def gate_up(rows: torch.Tensor) -> torch.Tensor:
    """silu(gate) up of [tokens, 2 x size], the gate first."""
    tokens, width = rows.shape
    result = rows.new_empty(tokens, width // 2)
    kernels().gate_up_rows(rows.data_ptr(), result.data_ptr(), tokens, width // 2)
    return result
