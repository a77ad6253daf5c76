"""A decode step of a plain Llama as one call of C, where `kernels.c` takes all of it.

On one core the few rows of a decode step cost as much around the products, in torch's operations
on small tensors, as in attention. What is here is exact to rounding: sums are in float32.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

from pdcache.sglang_cpu.attention import Decode, decodes
from pdcache.sglang_cpu.linear import FEW_ROWS, PACKED, Packed
from pdcache.sglang_cpu.native import LANES, kernels
from pdcache.sglang_cpu.targets import Target

POOL = Target("sglang.srt.mem_cache.memory_pool", "MHATokenToKVPool")

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_long


class Step(ctypes.Structure):
    """`struct step` of `kernels.c`."""

    _fields_ = (
        *((name, _COUNT) for name in ("rows", "size", "heads", "kv_heads", "dim", "inner")),
        ("epsilon", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("rotation", _POINTER),
        ("slots", _POINTER),
        ("table", _POINTER),
        ("positions", _COUNT),
        *((name, _POINTER) for name in ("places", "lengths", "scores", "state", "residual")),
        *((name, _POINTER) for name in ("normed", "qkv", "attended", "mlp", "last_norm")),
    )


def decode_step(
    layers: Sequence[Any],
    last_norm: Any,
    hidden: torch.Tensor,
    rotation: torch.Tensor,
    backend: Any,
    slots: torch.Tensor,
) -> torch.Tensor | None:
    """All layers on one new token each: [requests, hidden size], normalized; None where C cannot.

    Args:
        layers: of `pdcache.sglang_cpu.decoder.plain_layers`.
        hidden: [requests, hidden size] embeddings.
        rotation: [requests, dim], rows of SGLang's `cos_sin_cache`.
        backend: the attention backend; it holds the batch and the KV pool.
        slots: [requests], where the pool keeps the new keys and values.

    Raises:
        ValueError: a slot is not in the pool; C would write beyond it.
    """
    rows, plan = len(hidden), getattr(backend, "decode", None)
    if not isinstance(plan, Decode) or hidden.dtype != torch.float32 or not 0 < rows <= FEW_ROWS:
        return None
    weights = _weights(layers)
    caches = _caches(layers, backend.token_to_kv_pool)
    sizes = _sizes(layers, last_norm, weights) if weights and caches else None
    if sizes is None:
        return None
    if int(slots.max()) >= len(caches[0]) or int(slots.min()) < 0:
        raise ValueError(f"slots {slots.tolist()} of {len(caches[0])}")
    state, slots = hidden.clone(), slots.long().contiguous()
    rotation = rotation.float().contiguous()
    width = (sizes["heads"] + 2 * sizes["kv_heads"]) * sizes["dim"]
    room = {
        "normed": torch.empty_like(state),
        "qkv": state.new_empty(rows, width),
        "attended": state.new_empty(rows, sizes["heads"] * sizes["dim"]),
        "mlp": state.new_empty(rows, 2 * sizes["inner"]),
        "residual": torch.zeros_like(state),
    }
    step = Step(
        rows=rows, **sizes, epsilon=last_norm.variance_epsilon, scale=layers[0].attention.scaling,
        rotation=rotation.data_ptr(), slots=slots.data_ptr(), table=plan.table.data_ptr(),
        positions=plan.table.shape[1], places=plan.rows.data_ptr(), scores=plan.scores.data_ptr(),
        lengths=plan.lengths.data_ptr(), state=state.data_ptr(),
        last_norm=last_norm.weight.data_ptr(),
        **{name: tensor.data_ptr() for name, tensor in room.items()},
    )  # fmt: skip
    parts: list[int] = []
    for at, layer in enumerate(layers):
        qkv, output, gate_up, down = weights[4 * at : 4 * at + 4]
        keys, values = caches[2 * at : 2 * at + 2]
        # The order of the enumeration in `kernels.c`.
        parts += (
            layer.attention_norm.weight.data_ptr(), qkv.data_ptr(), keys.data_ptr(),
            values.data_ptr(), output.data_ptr(), layer.mlp_norm.weight.data_ptr(),
            gate_up.data_ptr(), down.data_ptr(),
        )  # fmt: skip
    addresses = (_POINTER * len(parts))(*parts)
    kernels().decode_step(ctypes.byref(step), addresses, len(layers))
    return state


def _weights(layers: Sequence[Any]) -> list[torch.Tensor]:
    """Of each layer's four products; nothing if one of them is not laid out for few rows."""
    found = []
    for layer in layers:
        for linear in layer.linears:
            packed: Packed = linear.__dict__[PACKED]
            if packed.halves is None:
                return []
            found.append(packed.halves)
    return found


def _caches(layers: Sequence[Any], pool: Any) -> list[torch.Tensor]:
    """Keys and values of each layer, once HiCache has loaded them; nothing for other pools.

    SGLang 0.5.23 (mem_cache/memory_pool.py) writes into its plain pool by `keys[slots] = k`.
    """
    if type(pool) is not POOL.get() or pool.use_hnd or pool.dtype != torch.float32:
        return []
    found: list[torch.Tensor] = []
    for layer in layers:
        number = layer.attention.layer_id
        found += (pool.get_key_buffer(number), pool.get_value_buffer(number))
    whole = all(decodes(cache) and cache.dtype == torch.float32 for cache in found)
    return found if whole else []


def _sizes(
    layers: Sequence[Any], last_norm: Any, weights: Sequence[torch.Tensor]
) -> dict[str, int] | None:
    """The sizes of `struct step`; None where layers differ, or a size is not one of whole LANES."""
    attention, epsilon = layers[0].attention, last_norm.variance_epsilon
    size, inner = weights[0].shape[1], weights[3].shape[1]
    heads, kv_heads, dim = attention.tp_q_head_num, attention.tp_k_head_num, attention.head_dim
    products = (
        ((heads + 2 * kv_heads) * dim, size), (size, heads * dim), (2 * inner, size), (size, inner),
    )  # fmt: skip
    laid_out = [(-(-outputs // (2 * LANES)), inputs) for outputs, inputs in products]
    if [tuple(weight.shape[:2]) for weight in weights] != laid_out * len(layers):
        return None
    for layer in layers:
        own = layer.attention
        window = own.sliding_window_size
        same = (
            (own.tp_q_head_num, own.tp_k_head_num, own.tp_v_head_num) == (heads, kv_heads, kv_heads)
            and own.qk_head_dim == own.v_head_dim == own.head_dim == dim
            and own.scaling == attention.scaling
            and not own.is_cross_attention
            and (window is None or window < 0)
            and layer.attention_norm.variance_epsilon == layer.mlp_norm.variance_epsilon == epsilon
        )
        if not same:
            return None
    if size % LANES or inner % LANES:
        return None
    return {"size": size, "heads": heads, "kv_heads": kv_heads, "dim": dim, "inner": inner}
