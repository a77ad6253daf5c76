"""HiCache's copies between the device pool and the host pool, in torch on CPU.

SGLang 0.5.23 takes these names from `sgl_kernel.kvcacheio` under CUDA only
(mem_cache/pool_host/{mha,mla,dsa,mamba,unified}.py, mem_cache/memory_pool_host.py); names,
argument names and meaning are theirs. K and V have these shapes (MLA: heads = 1, one buffer):

    device, layer_first host   a list by layer of [slots, heads, dim]
    page_first host            [slots, layers, heads, dim]
    page_first_direct host     [pages, layers, page_size, heads, dim]
    page_head host             [pages, heads, page_size, layers, dim]

`src_indices` and `dst_indices` are 1-D lists of token slots of equal length, possibly empty;
where an op takes `page_size`, they hold whole pages in order. `item_size` is the bytes of one
token in one layer, `*_layout_dim` the bytes of one token in all layers, `*_layers` a uint64
table of one address a layer. `lf` stands for layer_first, `pf` page_first, `ph` page_head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pdcache.sglang_cpu.memory import (
    Selector,
    nothing_to_copy,
    page_selector,
    rows_covering,
    selector,
)

# io backend "direct": lists of tensors


def transfer_kv_direct(
    src_layers: Sequence[torch.Tensor],
    dst_layers: Sequence[torch.Tensor],
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    page_size: int,
) -> None:
    """Both ways, layer_first, direct: slots of each of `src_layers` to the same of `dst_layers`."""
    if nothing_to_copy(src_indices, dst_indices, page_size):
        return
    src_slots, dst_slots = selector(src_indices), selector(dst_indices)
    for src, dst in zip(src_layers, dst_layers, strict=True):
        _copy_rows(src, src_slots, dst, dst_slots)


def transfer_kv_per_layer_direct_pf_lf(
    src_ptrs: Sequence[torch.Tensor],
    dst_ptrs: Sequence[torch.Tensor],
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    layer_id: int,
    page_size: int,
) -> None:
    """Host to device, page_first_direct, direct, one layer.

    `src_ptrs` are the host's [K, V] (MLA: one), `dst_ptrs` the device's for layer `layer_id`.
    """
    if nothing_to_copy(src_indices, dst_indices, page_size):
        return
    pages, slots = page_selector(src_indices, page_size), selector(dst_indices)
    for src, dst in zip(src_ptrs, dst_ptrs, strict=True):
        dst[slots] = src.select(1, layer_id)[pages].reshape(-1, *dst.shape[1:])


def transfer_kv_all_layer_direct_lf_pf(
    src_ptrs: Sequence[torch.Tensor],
    dst_ptrs: Sequence[torch.Tensor],
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    page_size: int,
) -> None:
    """Device to host, page_first_direct, direct, all layers.

    `src_ptrs` are the device's K by layer, then V by layer; `dst_ptrs` the host's [K, V].
    """
    if nothing_to_copy(src_indices, dst_indices, page_size):
        return
    slots, pages = selector(src_indices), page_selector(dst_indices, page_size)
    layers = len(src_ptrs) // len(dst_ptrs)
    for number, src in enumerate(src_ptrs):
        part, layer = divmod(number, layers)
        dst = dst_ptrs[part].select(1, layer)
        dst[pages] = src[slots].reshape(-1, *dst.shape[1:])


# io backend "kernel", host to device: tensors, one layer


def transfer_kv_per_layer_mla(
    src: torch.Tensor,
    dst: torch.Tensor,
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    item_size: int,
) -> None:
    """One layer, layer_first, kernel, one buffer (MLA, DSA indexer, Mamba state); both ways."""
    if nothing_to_copy(src_indices, dst_indices):
        return
    _copy_rows(src, selector(src_indices), dst, selector(dst_indices))


def transfer_kv_per_layer(
    src_k: torch.Tensor,
    dst_k: torch.Tensor,
    src_v: torch.Tensor,
    dst_v: torch.Tensor,
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    item_size: int,
) -> None:
    """Host to device, layer_first, kernel, one layer of K and V."""
    transfer_kv_per_layer_mla(src_k, dst_k, src_indices, dst_indices, item_size)
    transfer_kv_per_layer_mla(src_v, dst_v, src_indices, dst_indices, item_size)


def transfer_kv_per_layer_mla_pf_lf(
    src: torch.Tensor,
    dst: torch.Tensor,
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    layer_id: int,
    item_size: int,
    src_layout_dim: int,
) -> None:
    """Host to device, page_first, kernel, layer `layer_id` of one buffer."""
    transfer_kv_per_layer_mla(src.select(1, layer_id), dst, src_indices, dst_indices, item_size)


def transfer_kv_per_layer_pf_lf(
    src_k: torch.Tensor,
    dst_k: torch.Tensor,
    src_v: torch.Tensor,
    dst_v: torch.Tensor,
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    layer_id: int,
    item_size: int,
    src_layout_dim: int,
) -> None:
    """Host to device, page_first, kernel, layer `layer_id` of K and V."""
    for src, dst in ((src_k, dst_k), (src_v, dst_v)):
        transfer_kv_per_layer_mla(src.select(1, layer_id), dst, src_indices, dst_indices, item_size)


def transfer_kv_per_layer_ph_lf(
    src_k: torch.Tensor,
    dst_k: torch.Tensor,
    src_v: torch.Tensor,
    dst_v: torch.Tensor,
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    layer_id: int,
    item_size: int,
    src_layout_dim: int,
    page_size: int,
    head_num: int,
) -> None:
    """Host to device, page_head, kernel, layer `layer_id` of K and V."""
    if nothing_to_copy(src_indices, dst_indices):
        return
    slots, index = selector(dst_indices), src_indices.long()
    for src, dst in ((src_k, dst_k), (src_v, dst_v)):
        dst[slots] = _page_head_layer(src, layer_id)[index // page_size, index % page_size]


# io backend "kernel", device to host: the device as a table of addresses, all layers


def transfer_kv_all_layer_mla(
    src_layers: torch.Tensor,
    dst_layers: torch.Tensor,
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    item_size: int,
    num_layers: int,
) -> None:
    """Device to host, layer_first, kernel, all layers of one buffer; the host is a table too."""
    if nothing_to_copy(src_indices, dst_indices):
        return
    src_slots, dst_slots = selector(src_indices), selector(dst_indices)
    for src, dst in _addresses(num_layers, src_layers, dst_layers):
        src_rows = rows_covering(src, src_indices, item_size)
        dst_rows = rows_covering(dst, dst_indices, item_size)
        _copy_rows(src_rows, src_slots, dst_rows, dst_slots)


def transfer_kv_all_layer(
    src_k_layers: torch.Tensor,
    dst_k_layers: torch.Tensor,
    src_v_layers: torch.Tensor,
    dst_v_layers: torch.Tensor,
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    item_size: int,
    num_layers: int,
) -> None:
    """Device to host, layer_first, kernel, all layers of K and V."""
    for src, dst in ((src_k_layers, dst_k_layers), (src_v_layers, dst_v_layers)):
        transfer_kv_all_layer_mla(src, dst, src_indices, dst_indices, item_size, num_layers)


def transfer_kv_all_layer_mla_lf_pf(
    src_layers: torch.Tensor,
    dst: torch.Tensor,
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    item_size: int,
    dst_layout_dim: int,
    num_layers: int,
) -> None:
    """Device to host, page_first, kernel, all layers of one buffer."""
    if nothing_to_copy(src_indices, dst_indices):
        return
    src_slots, dst_slots = selector(src_indices), selector(dst_indices)
    for layer, (src,) in enumerate(_addresses(num_layers, src_layers)):
        rows = rows_covering(src, src_indices, item_size)
        _copy_rows(rows.view(dst.dtype), src_slots, dst.select(1, layer), dst_slots)


def transfer_kv_all_layer_lf_pf(
    src_k_layers: torch.Tensor,
    dst_k: torch.Tensor,
    src_v_layers: torch.Tensor,
    dst_v: torch.Tensor,
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    item_size: int,
    dst_layout_dim: int,
    num_layers: int,
) -> None:
    """Device to host, page_first, kernel, all layers of K and V."""
    for src, dst in ((src_k_layers, dst_k), (src_v_layers, dst_v)):
        transfer_kv_all_layer_mla_lf_pf(
            src, dst, src_indices, dst_indices, item_size, dst_layout_dim, num_layers
        )


def transfer_kv_all_layer_lf_ph(
    src_k_layers: torch.Tensor,
    dst_k: torch.Tensor,
    src_v_layers: torch.Tensor,
    dst_v: torch.Tensor,
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    item_size: int,
    dst_layout_dim: int,
    num_layers: int,
    page_size: int,
    head_num: int,
) -> None:
    """Device to host, page_head, kernel, all layers of K and V."""
    if nothing_to_copy(src_indices, dst_indices):
        return
    slots, index = selector(src_indices), dst_indices.long()
    for table, dst in ((src_k_layers, dst_k), (src_v_layers, dst_v)):
        for layer, (src,) in enumerate(_addresses(num_layers, table)):
            rows = rows_covering(src, src_indices, item_size).view(dst.dtype)[slots]
            tokens = rows.reshape(-1, head_num, dst.shape[-1])
            _page_head_layer(dst, layer)[index // page_size, index % page_size] = tokens


def _copy_rows(
    src: torch.Tensor, src_rows: Selector, dst: torch.Tensor, dst_rows: Selector
) -> None:
    dst[dst_rows] = src[src_rows].reshape(-1, *dst.shape[1:])


def _page_head_layer(host: torch.Tensor, layer: int) -> torch.Tensor:
    """One layer of a page_head buffer as a [pages, page_size, heads, dim] view."""
    return host.select(3, layer).transpose(1, 2)


def _addresses(num_layers: int, *tables: torch.Tensor) -> list[tuple[int, ...]]:
    """The first `num_layers` addresses of each table, layer by layer."""
    return list(zip(*(table[:num_layers].tolist() for table in tables), strict=True))
