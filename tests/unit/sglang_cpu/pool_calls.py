"""Calls the copies as SGLang 0.5.23's host pools call them (mem_cache/pool_host/{mha,mla}.py)."""

from __future__ import annotations

import torch
from host_layouts import LAYERS, PAGE_SIZE, Shape, address_table

from pdcache.sglang_cpu import copies

Parts = list[torch.Tensor]
"""Host buffers: [K, V], or MLA's one."""


def back_up(
    layout: str,
    backend: str,
    shape: Shape,
    devices: list[Parts],
    hosts: Parts,
    device_slots: torch.Tensor,
    host_slots: torch.Tensor,
) -> None:
    """Device to host, all layers; `devices` are the layers of K and of V (MLA: of one)."""
    indices = {"src_indices": device_slots, "dst_indices": host_slots}
    if backend == "direct":
        sources = [layer for device in devices for layer in device]
        if layout == "layer_first":
            targets = [layer for host in hosts for layer in host]
            copies.transfer_kv_direct(
                src_layers=sources, dst_layers=targets, **indices, page_size=PAGE_SIZE
            )
        else:
            copies.transfer_kv_all_layer_direct_lf_pf(
                src_ptrs=sources, dst_ptrs=hosts, **indices, page_size=PAGE_SIZE
            )
        return
    tables = [address_table(device) for device in devices]
    sizes = {"item_size": shape.item_size, "num_layers": LAYERS}
    row = {"dst_layout_dim": shape.item_size * LAYERS}
    host_tables = [address_table(list(host)) for host in hosts] if layout == "layer_first" else []
    if len(hosts) == 1:
        if layout == "layer_first":
            copies.transfer_kv_all_layer_mla(
                src_layers=tables[0], dst_layers=host_tables[0], **indices, **sizes
            )
        else:
            copies.transfer_kv_all_layer_mla_lf_pf(
                src_layers=tables[0], dst=hosts[0], **indices, **sizes, **row
            )
        return
    sources_kv = {"src_k_layers": tables[0], "src_v_layers": tables[1]}
    if layout == "layer_first":
        copies.transfer_kv_all_layer(
            **sources_kv,
            dst_k_layers=host_tables[0],
            dst_v_layers=host_tables[1],
            **indices,
            **sizes,
        )
        return
    targets_kv = {"dst_k": hosts[0], "dst_v": hosts[1]}
    if layout == "page_first":
        copies.transfer_kv_all_layer_lf_pf(**sources_kv, **targets_kv, **indices, **sizes, **row)
    else:
        copies.transfer_kv_all_layer_lf_ph(
            **sources_kv,
            **targets_kv,
            **indices,
            **sizes,
            **row,
            page_size=PAGE_SIZE,
            head_num=shape.heads,
        )


def load_layer(
    layout: str,
    backend: str,
    shape: Shape,
    hosts: Parts,
    devices: Parts,
    layer: int,
    host_slots: torch.Tensor,
    device_slots: torch.Tensor,
) -> None:
    """Host to device, one layer; `devices` are that layer's K and V (MLA: one)."""
    indices = {"src_indices": host_slots, "dst_indices": device_slots}
    if backend == "direct":
        if layout == "layer_first":
            copies.transfer_kv_direct(
                src_layers=[host[layer] for host in hosts],
                dst_layers=devices,
                **indices,
                page_size=PAGE_SIZE,
            )
        else:
            copies.transfer_kv_per_layer_direct_pf_lf(
                src_ptrs=hosts, dst_ptrs=devices, **indices, layer_id=layer, page_size=PAGE_SIZE
            )
        return
    size = {"item_size": shape.item_size}
    row = {"layer_id": layer, "src_layout_dim": shape.item_size * LAYERS}
    if len(hosts) == 1:
        if layout == "layer_first":
            copies.transfer_kv_per_layer_mla(src=hosts[0][layer], dst=devices[0], **indices, **size)
        else:
            copies.transfer_kv_per_layer_mla_pf_lf(
                src=hosts[0], dst=devices[0], **indices, **size, **row
            )
        return
    targets = {"dst_k": devices[0], "dst_v": devices[1]}
    if layout == "layer_first":
        copies.transfer_kv_per_layer(
            src_k=hosts[0][layer], src_v=hosts[1][layer], **targets, **indices, **size
        )
        return
    sources = {"src_k": hosts[0], "src_v": hosts[1]}
    if layout == "page_first":
        copies.transfer_kv_per_layer_pf_lf(**sources, **targets, **indices, **size, **row)
    else:
        copies.transfer_kv_per_layer_ph_lf(
            **sources,
            **targets,
            **indices,
            **size,
            **row,
            page_size=PAGE_SIZE,
            head_num=shape.heads,
        )
