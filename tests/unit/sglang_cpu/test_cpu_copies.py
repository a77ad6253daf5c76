"""Every copy against the naive statement of it in `host_layouts`."""

from __future__ import annotations

import pytest
import torch
from host_layouts import (
    LAYERS,
    LAYOUT_AND_BACKEND,
    PAGE_SIZE,
    PAGES,
    Shape,
    device_layer_after_load,
    host_after_backup,
    random_device,
    random_host,
    slots_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_calls import back_up, load_layer

from pdcache.sglang_cpu import copies

CASES = [
    pytest.param(layout, backend, parts, id=f"{layout}-{backend}-{'mha' if parts == 2 else 'mla'}")
    for layout, backend in LAYOUT_AND_BACKEND
    for parts in (2, 1)
    # SGLang has no page_head for MLA: it has one head.
    if not (layout == "page_head" and parts == 1)
]
SHAPES = [
    pytest.param(Shape(heads, dim, dtype), id=f"{str(dtype)[6:]}-{heads}x{dim}")
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
    for heads, dim in ((2, 8), (3, 5))
]
PAGE_LISTS = {
    0: ([], []),
    1: ([4], [7]),
    3: ([2, 3, 4], [8, 0, 5]),
    7: ([8, 1, 6, 0, 3, 5, 2], [1, 2, 3, 4, 5, 6, 7]),
}

layouts = pytest.mark.parametrize(("layout", "backend", "parts"), CASES)
shapes = pytest.mark.parametrize("shape", SHAPES)
page_counts = pytest.mark.parametrize("count", PAGE_LISTS)


def assert_backup_is_exact(layout, backend, parts, shape, device_pages, host_pages):
    devices = [random_device(shape) for _ in range(parts)]
    hosts = [random_host(layout, shape) for _ in range(parts)]
    device_slots, host_slots = slots_of(device_pages), slots_of(host_pages)
    pairs = list(zip(device_slots.tolist(), host_slots.tolist(), strict=True))
    expected = [
        host_after_backup(device, host, layout, pairs)
        for device, host in zip(devices, hosts, strict=True)
    ]

    back_up(layout, backend, shape, devices, hosts, device_slots, host_slots)

    for host, after in zip(hosts, expected, strict=True):
        assert torch.equal(host, after)


def assert_load_is_exact(layout, backend, parts, shape, device_pages, host_pages):
    devices = [random_device(shape) for _ in range(parts)]
    hosts = [random_host(layout, shape) for _ in range(parts)]
    device_slots, host_slots = slots_of(device_pages), slots_of(host_pages)
    pairs = list(zip(device_slots.tolist(), host_slots.tolist(), strict=True))
    for layer in range(LAYERS):
        targets = [device[layer] for device in devices]
        expected = [
            device_layer_after_load(host, target, layout, layer, pairs)
            for host, target in zip(hosts, targets, strict=True)
        ]

        load_layer(layout, backend, shape, hosts, targets, layer, host_slots, device_slots)

        for target, after in zip(targets, expected, strict=True):
            assert torch.equal(target, after)


@layouts
@shapes
@page_counts
def test_backup_writes_the_named_pages_and_nothing_else(layout, backend, parts, shape, count):
    assert_backup_is_exact(layout, backend, parts, shape, *PAGE_LISTS[count])


@layouts
@shapes
@page_counts
def test_load_reads_the_named_pages_and_nothing_else(layout, backend, parts, shape, count):
    assert_load_is_exact(layout, backend, parts, shape, *PAGE_LISTS[count])


@st.composite
def page_lists(draw):
    """Distinct device pages and as many distinct host pages, each in any order."""
    device_pages = draw(st.permutations(range(PAGES)))
    host_pages = draw(st.permutations(range(PAGES)))
    count = draw(st.integers(0, PAGES))
    return device_pages[:count], host_pages[:count]


@layouts
@settings(max_examples=25)
@given(pages=page_lists())
def test_any_pages_in_any_order_copy_exactly_both_ways(layout, backend, parts, pages):
    shape = Shape(heads=2, dim=3, dtype=torch.bfloat16)
    assert_backup_is_exact(layout, backend, parts, shape, *pages)
    assert_load_is_exact(layout, backend, parts, shape, *pages)


@layouts
def test_index_lists_of_unequal_length_are_refused(layout, backend, parts):
    # A single source row would otherwise be broadcast over every destination.
    shape = Shape(heads=2, dim=8, dtype=torch.float32)
    devices = [random_device(shape) for _ in range(parts)]
    hosts = [random_host(layout, shape) for _ in range(parts)]
    one_page, two_pages = slots_of([1]), slots_of([2, 3])
    with pytest.raises(ValueError, match="4 source indices but 8 destination"):
        back_up(layout, backend, shape, devices, hosts, one_page, two_pages)
    layer = [device[0] for device in devices]
    with pytest.raises(ValueError, match="4 source indices but 8 destination"):
        load_layer(layout, backend, shape, hosts, layer, 0, one_page, two_pages)


def test_the_direct_backend_refuses_part_of_a_page():
    device = random_device(Shape(2, 8, torch.float32))
    part = torch.arange(PAGE_SIZE - 1)
    with pytest.raises(ValueError, match="3 indices are not whole pages of 4"):
        copies.transfer_kv_direct([device[0]], [device[1]], part, part, PAGE_SIZE)


def test_int32_indices_are_accepted():
    source, target = random_device(Shape(2, 8, torch.float32))[:2]
    indices = slots_of([5, 2]).int()
    copies.transfer_kv_direct([source], [target], indices, indices, PAGE_SIZE)
    assert torch.equal(target[indices.long()], source[indices.long()])
