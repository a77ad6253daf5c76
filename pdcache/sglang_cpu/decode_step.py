"""A decode step of a plain Llama as one call of C, where it takes all of it.

On one core the few rows of a decode step cost as much around the products, in torch's operations
on small tensors, as in attention.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

from pdcache.sglang_cpu.attention import Decode
from pdcache.sglang_cpu.native import kernels
from pdcache.sglang_cpu.steps import prepare


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
        backend: the attention backend; it holds the batch and the KV pool.

    The others, and what is raised: as in `pdcache.sglang_cpu.steps.prepare`.
    """
    rows, plan = len(hidden), getattr(backend, "decode", None)
    if not isinstance(plan, Decode):
        return None
    pool = backend.token_to_kv_pool
    ready = prepare(layers, last_norm, hidden, rotation, pool, slots, rooms=1, rows_a_room=rows)
    if ready is None:
        return None
    for layer in layers:  # Until HiCache has loaded them.
        pool.get_key_buffer(layer.attention.layer_id)
    step = ready.step
    step.table, step.positions = plan.table.data_ptr(), plan.table.shape[1]
    step.places, step.lengths = plan.rows.data_ptr(), plan.lengths.data_ptr()
    step.scores = plan.scores.data_ptr()
    kernels().decode_step(ctypes.byref(step), ready.parts, len(layers))
    return ready.state.to(hidden.dtype)
