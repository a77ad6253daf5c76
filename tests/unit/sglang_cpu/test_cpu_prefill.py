"""What `prefill.c` computes, with one thread and with several, beside the same in torch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pdcache.sglang_cpu.prefill import KEYS, QUERIES, extend, extends

pytestmark = pytest.mark.usefixtures("threads")

SLOTS = 600


def attended(query, keys, values, slots, *, scaling, causal):
    """One softmax a query and head, in float64: [new, heads, dim]."""
    new, heads, dim = query.shape
    share = heads // keys.shape[1]
    seen_keys = keys[slots.long()].double().repeat_interleave(share, 1).movedim(0, 1)
    seen_values = values[slots.long()].double().repeat_interleave(share, 1).movedim(0, 1)
    scores = query.double().movedim(0, 1) @ seen_keys.mT * (scaling or 1 / math.sqrt(dim))
    if causal:
        sees = torch.ones(new, len(slots), dtype=torch.bool).tril_(len(slots) - new)
        scores = scores.masked_fill(~sees, -math.inf)
    return (scores.softmax(-1) @ seen_values).movedim(0, 1)


@settings(max_examples=60, deadline=None)
@given(
    prefix=st.one_of(st.sampled_from([0, KEYS - 1, KEYS, KEYS + 1]), st.integers(0, 300)),
    new=st.one_of(st.sampled_from([1, 31, 32, 33, QUERIES]), st.integers(1, 250)),
    heads=st.sampled_from([(1, 1), (4, 4), (9, 3), (14, 2), (8, 1)]),
    dim=st.sampled_from([16, 48, 64, 80, 128]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    scaling=st.sampled_from([None, 0.3, 5.0]),
    causal=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_new_tokens_attend_as_one_softmax_a_query_does(
    prefix, new, heads, dim, dtype, scaling, causal, seed
):
    torch.manual_seed(seed)
    query_heads, kv_heads = heads
    # Part of wider rows, as the products leave them.
    query = torch.randn(new, query_heads + 3, dim)[:, :query_heads]
    keys, values = torch.randn(2, SLOTS, kv_heads, dim).to(dtype)
    slots = torch.randperm(SLOTS)[: prefix + new].int()
    unused = torch.ones(SLOTS, dtype=torch.bool)
    unused[slots.long()] = False
    keys[unused] = values[unused] = math.nan
    got = extend(query, keys, values, slots, scaling=scaling, causal=causal)
    expected = attended(query, keys, values, slots, scaling=scaling, causal=causal)
    # Scores of some hundreds have an error of 1e-4 by their rounding alone.
    torch.testing.assert_close(got.double(), expected, atol=3e-4, rtol=3e-4)


def test_a_token_does_not_see_what_is_no_number_after_it():
    query, (keys, values) = torch.randn(100, 2, 16), torch.randn(2, 100, 1, 16)
    keys[60] = math.nan
    slots = torch.arange(100).int()
    got = extend(query, keys, values, slots, scaling=None, causal=True)
    assert not got[:60].isnan().any()
    assert got[60:].isnan().all()


@pytest.mark.parametrize(
    ("query", "cache", "taken"),
    [
        (torch.zeros(3, 4, 16), torch.zeros(8, 2, 16), True),
        (torch.zeros(3, 4, 16).bfloat16(), torch.zeros(8, 2, 16).bfloat16(), True),
        (torch.zeros(3, 4, 16).half(), torch.zeros(8, 2, 16).half(), False),
        (torch.zeros(3, 4, 12), torch.zeros(8, 2, 12), False),
        (torch.zeros(3, 4, 16), torch.zeros(2, 8, 16).transpose(0, 1), False),
        (torch.zeros(3, QUERIES + 1, 16), torch.zeros(8, 1, 16), False),
    ],
    ids=["float32", "bfloat16", "float16", "12 dims", "transposed", "too many heads a group"],
)
def test_it_takes_only_what_its_functions_are_written_for(query, cache, taken):
    assert extends(query, cache, cache) is taken
