"""Steps of a plain Llama whose layers C takes: what they are made of.

In `decode_step` and `prefill_step` all between the attention of one layer and that of the next is
one call of C. Sums are in float32, also those of a model in bfloat16, of which rows are rounded
only where they are multiplied or cached.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pdcache.sglang_cpu.attention import decodes
from pdcache.sglang_cpu.linear import BLOCK, PACKED, Packed
from pdcache.sglang_cpu.native import LANES
from pdcache.sglang_cpu.targets import Target

POOL = Target("sglang.srt.mem_cache.memory_pool", "MHATokenToKVPool")

HALF = torch.bfloat16

PARTS = 8
"""Addresses of a layer, in the order of the enumeration in `layers.h`."""

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_long


class Step(ctypes.Structure):
    """`struct step` of `layers.h`."""

    _fields_ = (
        *((name, _COUNT) for name in ("rows", "size", "heads", "kv_heads", "dim", "inner")),
        ("half", ctypes.c_int),
        ("epsilon", ctypes.c_float),
        ("scale", ctypes.c_float),
        *((name, _POINTER) for name in ("rotation", "slots", "state", "residual", "qkv")),
        *((name, _POINTER) for name in ("attended", "normed", "mlp", "rounded")),
        ("rooms", _COUNT),
        ("rows_a_room", _COUNT),
        *((name, _POINTER) for name in ("last_norm", "table")),
        ("positions", _COUNT),
        *((name, _POINTER) for name in ("places", "lengths", "scores")),
    )


@dataclass(frozen=True)
class Prepared:
    """A step that C can take.

    Attributes:
        step: the structure, without what belongs to attention.
        parts: addresses of each layer, `PARTS` each.
        caches: keys and values of each layer, [slots, KV heads, dim].
        norms: the two of each layer, in float32.
        state: [tokens, hidden size] in float32, embeddings; after the last layer the normalized
            result.
        room: tensors that `step` points to.
    """

    step: Step
    parts: Any
    caches: list[torch.Tensor]
    norms: list[torch.Tensor]
    state: torch.Tensor
    room: dict[str, torch.Tensor]

    @property
    def queries(self) -> torch.Tensor:
        """[tokens, heads, dim], rotated; a part of wider rows."""
        return self.room["qkv"][:, : self.step.heads]

    @property
    def attended(self) -> torch.Tensor:
        """[tokens, heads, dim]"""
        return self.room["attended"]

    def rows(self, at: torch.Tensor) -> Prepared:
        """The same, of some rows, as they are before attention, and without caches to write to."""
        room = dict(self.room)
        for name in ("residual", "qkv", "attended"):
            room[name] = room[name][at]
        step = Step.from_buffer_copy(self.step)
        state = room["residual"].new_empty(room["residual"].shape)
        step.rows, step.state, step.rotation, step.slots = len(at), state.data_ptr(), None, None
        step.residual, step.qkv = room["residual"].data_ptr(), room["qkv"].data_ptr()
        step.attended = room["attended"].data_ptr()
        return replace(self, step=step, state=state, room=room)

    def parts_of(self, layer: int) -> Any:
        """The addresses of one layer."""
        return ctypes.byref(self.parts, layer * PARTS * ctypes.sizeof(_POINTER))


def prepare(
    layers: Sequence[Any],
    last_norm: Any,
    hidden: torch.Tensor,
    rotation: torch.Tensor,
    pool: Any,
    slots: torch.Tensor,
    *,
    rooms: int,
    rows_a_room: int,
) -> Prepared | None:
    """A step on new tokens; None where C cannot take it.

    Args:
        layers: of `pdcache.sglang_cpu.decoder.plain_layers`.
        hidden: [tokens, hidden size] embeddings.
        rotation: [tokens, dim], rows of SGLang's `cos_sin_cache`.
        pool: of keys and values.
        slots: [tokens], where the pool keeps the new keys and values.
        rooms, rows_a_room: threads that may be in `between` at once, and the rows of each.

    Raises:
        ValueError: a slot is not in the pool; C would write beyond it.
    """
    if not len(hidden):
        return None
    weights = _weights(layers, hidden.dtype)
    caches = _caches(layers, pool, hidden.dtype)
    sizes = _sizes(layers, last_norm, weights) if weights and caches else None
    if sizes is None:
        return None
    if int(slots.max()) >= len(caches[0]) or int(slots.min()) < 0:
        raise ValueError(f"slots {slots.tolist()} of {len(caches[0])}")
    rows, state = len(hidden), torch.empty(hidden.shape, dtype=torch.float32).copy_(hidden)
    heads, kv_heads, dim = sizes["heads"], sizes["kv_heads"], sizes["dim"]
    room = {
        "rotation": rotation.float().contiguous(),
        "slots": slots.long().contiguous(),
        "residual": torch.zeros_like(state),
        "qkv": state.new_empty(rows, heads + 2 * kv_heads, dim),
        "attended": state.new_empty(rows, heads, dim),
        "normed": state.new_empty(rooms * rows_a_room, sizes["size"]),
        "mlp": state.new_empty(rooms * rows_a_room, 2 * sizes["inner"]),
        "rounded": torch.empty(
            rooms * rows_a_room, max(sizes["size"], heads * dim, sizes["inner"]), dtype=HALF
        ),
        "last_norm": last_norm.weight.float(),
    }
    step = Step(
        rows=rows, **sizes, half=hidden.dtype == HALF, epsilon=last_norm.variance_epsilon,
        scale=layers[0].attention.scaling, state=state.data_ptr(), rooms=rooms,
        rows_a_room=rows_a_room,
        **{name: tensor.data_ptr() for name, tensor in room.items()},
    )  # fmt: skip
    parts: list[int] = []
    norms: list[torch.Tensor] = []
    for at, layer in enumerate(layers):
        qkv, output, gate_up, down = weights[4 * at : 4 * at + 4]
        keys, values = caches[2 * at : 2 * at + 2]
        norms += layer.attention_norm.weight.float(), layer.mlp_norm.weight.float()
        of_layer = norms[-2], qkv, keys, values, output, norms[-1], gate_up, down
        parts += [tensor.data_ptr() for tensor in of_layer]
    return Prepared(step, (_POINTER * len(parts))(*parts), caches, norms, state, room)


def _weights(layers: Sequence[Any], dtype: torch.dtype) -> list[torch.Tensor]:
    """Of each layer's four products; nothing if `linear.c` does not take one of them."""
    found = []
    for layer in layers:
        for linear in layer.linears:
            packed: Packed = linear.__dict__[PACKED]
            if packed.halves is None or packed.dtype != dtype:
                return []
            found.append(packed.halves)
    return found


def _caches(layers: Sequence[Any], pool: Any, dtype: torch.dtype) -> list[torch.Tensor]:
    """Keys and values of each layer; nothing for other pools.

    SGLang 0.5.23 (mem_cache/memory_pool.py) writes into its plain pool by `keys[slots] = k`.
    """
    if type(pool) is not POOL.get() or pool.use_hnd or pool.dtype != dtype:
        return []
    found: list[torch.Tensor] = []
    for layer in layers:
        number = layer.attention.layer_id
        found += (pool._get_key_buffer(number), pool._get_value_buffer(number))
    whole = all(decodes(cache) and cache.dtype == dtype for cache in found)
    return found if whole else []


def _sizes(
    layers: Sequence[Any], last_norm: Any, weights: Sequence[torch.Tensor]
) -> dict[str, int] | None:
    """The sizes of `struct step`; None where layers differ, or a size is not one of whole LANES."""
    attention, epsilon = layers[0].attention, last_norm.variance_epsilon
    size, inner = 2 * weights[0].shape[1], 2 * weights[3].shape[1]
    heads, kv_heads, dim = attention.tp_q_head_num, attention.tp_k_head_num, attention.head_dim
    products = (
        ((heads + 2 * kv_heads) * dim, size), (size, heads * dim), (2 * inner, size), (size, inner),
    )  # fmt: skip
    laid_out = [(-(-outputs // BLOCK), inputs // 2) for outputs, inputs in products]
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
            and own.attn_type.value == "decoder"
            and (window is None or window < 0)
            and layer.attention_norm.variance_epsilon == layer.mlp_norm.variance_epsilon == epsilon
        )
        if not same:
            return None
    if size % LANES or inner % LANES:
        return None
    return {"size": size, "heads": heads, "kv_heads": kv_heads, "dim": dim, "inner": inner}
