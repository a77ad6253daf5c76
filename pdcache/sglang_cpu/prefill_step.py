"""A step of new tokens of a plain Llama: a call of C from attention to attention, and one for each.

Rows go from one attention to the next by themselves, so threads take some at a time, whoever is
free, and wait for each other twice a layer only: a thread that has to leave its core for a while
holds up few rows.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch

from pdcache.sglang_cpu import cores
from pdcache.sglang_cpu.native import kernels
from pdcache.sglang_cpu.prefill import extend, extends
from pdcache.sglang_cpu.steps import prepare

ROWS = 24
"""The most that a thread takes at a time; 12, 36 and 48 were as fast."""


def prefill_step(
    layers: Sequence[Any],
    last_norm: Any,
    hidden: torch.Tensor,
    rotation: torch.Tensor,
    backend: Any,
    slots: torch.Tensor,
    *,
    last_only: bool = False,
) -> torch.Tensor | None:
    """All layers on new tokens: [tokens, hidden size], normalized; None where C cannot.

    Args:
        backend: the attention backend; it holds the batch and the KV pool.
        last_only: of the result only the last token of each request is to be read; the others are
            NaN. The last layer is computed for those alone, except keys and values.

    The others, and what is raised: as in `pdcache.sglang_cpu.steps.prepare`.
    """
    suffixes = getattr(backend, "suffixes", None)
    if not suffixes:
        return None
    pool = backend.token_to_kv_pool
    rooms = max(torch.get_num_threads(), cores.MOST_THREADS)
    ready = prepare(layers, last_norm, hidden, rotation, pool, slots, rooms=rooms, rows_a_room=ROWS)
    if ready is None or not extends(ready.attended, *ready.caches[:2]):
        return None
    addresses = [None, *(ready.parts_of(number) for number in range(len(layers))), None]
    cores.adapt()
    kernels().prefill_rows(ctypes.byref(ready.step), *addresses[:2])
    asked, new = ready, [request.new for request in suffixes]
    last = torch.tensor(new).cumsum(0) - 1
    for number, layer in enumerate(layers, 1):
        if last_only and number == len(layers):
            asked, new = ready.rows(last), [1] * len(suffixes)
        cores.adapt()
        # These wait until HiCache has loaded them.
        keys = pool.get_key_buffer(layer.attention.layer_id)
        values = pool.get_value_buffer(layer.attention.layer_id)
        queries, attended = asked.queries.split(new), asked.attended.split(new)
        for request, query, out in zip(suffixes, queries, attended, strict=True):
            scaling = layer.attention.scaling
            extend(query, keys, values, request.slots, scaling=scaling, causal=True, out=out)
        cores.adapt()
        kernels().prefill_rows(ctypes.byref(asked.step), *addresses[number : number + 2])
    if asked is ready:
        return ready.state.to(hidden.dtype)
    result = torch.full_like(ready.state, math.nan)
    result[last] = asked.state
    return result.to(hidden.dtype)
