from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pdcache.sglang_cpu.slots import assign_req_to_token_pool_cpu, copy_all_layer_kv_cache_cpu


@st.composite
def allocations(draw):
    """Requests (rows of the table) with the span of positions each was given slots for."""
    rows = draw(st.lists(st.integers(0, 7), unique=True, max_size=6))
    bounds = [sorted(draw(st.tuples(st.integers(0, 12), st.integers(0, 12)))) for _ in rows]
    return rows, bounds


@given(allocation=allocations())
def test_new_slots_fill_each_requests_span_in_order_and_nothing_else(allocation):
    rows, bounds = allocation
    starts, ends = ([bound[side] for bound in bounds] for side in (0, 1))
    slots = torch.arange(1000, 1000 + sum(ends) - sum(starts), dtype=torch.int64)
    table = torch.arange(8 * 12, dtype=torch.int32).view(8, 12)
    expected, next_slot = table.clone(), iter(slots.tolist())
    for row, (start, end) in zip(rows, bounds, strict=True):
        for position in range(start, end):
            expected[row, position] = next(next_slot)

    assign_req_to_token_pool_cpu(
        torch.tensor(rows, dtype=torch.int64),
        table,
        torch.tensor(starts, dtype=torch.int64),
        torch.tensor(ends, dtype=torch.int64),
        slots,
        table.shape[1],
    )

    assert torch.equal(table, expected)


def move(buffers, targets, sources):
    copy_all_layer_kv_cache_cpu(
        torch.tensor([buffer.data_ptr() for buffer in buffers], dtype=torch.uint64),
        torch.tensor([buffer.stride(0) * buffer.itemsize for buffer in buffers]),
        torch.tensor(targets, dtype=torch.int64),
        torch.tensor(sources, dtype=torch.int64),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@settings(max_examples=30)
@given(targets=st.permutations(range(10)), sources=st.permutations(range(10)), data=st.data())
def test_slots_move_as_if_all_were_read_before_any_is_written(dtype, targets, sources, data):
    count = data.draw(st.integers(0, 10))
    targets, sources = targets[:count], sources[:count]
    buffers = [torch.randn(10, 2, 8).to(dtype), torch.randn(10, 3, 5).to(dtype)]
    expected = [buffer.clone() for buffer in buffers]
    for before, after in zip(buffers, expected, strict=True):
        for target, source in zip(targets, sources, strict=True):
            after[target] = before[source]

    move(buffers, targets, sources)

    for buffer, after in zip(buffers, expected, strict=True):
        assert torch.equal(buffer, after)


def test_moving_with_unequal_lists_is_refused():
    with pytest.raises(ValueError, match="2 source indices but 1 destination"):
        move([torch.randn(10, 2, 8)], targets=[1], sources=[2, 3])
