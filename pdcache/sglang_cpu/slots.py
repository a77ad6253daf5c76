"""The two slot-table operations SGLang 0.5.23 imports from `sgl_kernel` on every CPU."""

from __future__ import annotations

import torch

from pdcache.sglang_cpu.memory import nothing_to_copy, rows_at


def assign_req_to_token_pool_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
) -> None:
    """Write newly allocated slots into the request-to-slot table (mem_cache/allocation.py).

    Row `req_pool_indices[i]` of `req_to_token` [requests, pool_len] gets, at token positions
    `start_offset[i]` to `end_offset[i]`, the next that many entries of `out_cache_loc`.
    """
    taken = 0
    spans = (req_pool_indices.tolist(), start_offset.tolist(), end_offset.tolist())
    for row, start, end in zip(*spans, strict=True):
        count = end - start
        req_to_token[row, start:end] = out_cache_loc[taken : taken + count]
        taken += count


def copy_all_layer_kv_cache_cpu(
    data_ptrs: torch.Tensor,
    strides: torch.Tensor,
    tgt_loc: torch.Tensor,
    src_loc: torch.Tensor,
) -> None:
    """Move slots `src_loc` to `tgt_loc` in every buffer (kernels/ops/kvcache/cache_move.py).

    `data_ptrs` are the buffers' addresses, `strides` the bytes of one slot in each. Every
    source is read before any target is written, so the two may overlap.
    """
    if nothing_to_copy(src_loc, tgt_loc):
        return
    source, target = src_loc.long(), tgt_loc.long()
    slots = int(torch.maximum(source, target).max()) + 1
    for address, slot_bytes in zip(data_ptrs.tolist(), strides.tolist(), strict=True):
        buffer = rows_at(address, slots, slot_bytes)
        buffer[target] = buffer[source]
