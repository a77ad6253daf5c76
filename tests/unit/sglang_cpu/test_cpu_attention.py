"""Suffix attention against one softmax a query and head, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pdcache.sglang_cpu.attention import extend_attention

MAX_LENGTH = 24
REQUEST_ROWS = 8


@dataclass
class Batch:
    """Requests with their sequences scattered over the cache, as the radix cache leaves them."""

    prefixes: list[int]
    new: list[int]
    query_heads: int
    kv_heads: int
    dim: int
    seed: int

    def __post_init__(self):
        torch.manual_seed(self.seed)
        slots = REQUEST_ROWS * MAX_LENGTH
        self.query = torch.randn(sum(self.new), self.query_heads, self.dim)
        self.k_cache = torch.randn(slots, self.kv_heads, self.dim)
        self.v_cache = torch.randn(slots, self.kv_heads, self.dim)
        table = torch.randperm(slots, dtype=torch.int32)
        self.req_to_token = table.view(REQUEST_ROWS, MAX_LENGTH)
        self.rows = torch.randperm(REQUEST_ROWS)[: len(self.new)]

    def attend(self, *, causal=True, scaling=None, dtype=torch.float32):
        query = self.query.to(dtype)
        prefixes, new = torch.tensor(self.prefixes), torch.tensor(self.new)
        return extend_attention(
            query,
            torch.full_like(query, math.nan),
            self.k_cache.to(dtype),
            self.v_cache.to(dtype),
            self.req_to_token,
            self.rows,
            prefixes + new,
            prefixes,
            new,
            scaling=scaling,
            enable_gqa=self.query_heads != self.kv_heads,
            causal=causal,
        )

    def attend_naively(self, *, causal=True, scaling=None):
        factor = scaling or 1 / math.sqrt(self.dim)
        group = self.query_heads // self.kv_heads
        output = torch.empty_like(self.query, dtype=torch.float64)
        token = 0
        for row, prefix, new in zip(self.rows, self.prefixes, self.new, strict=True):
            for position in range(prefix, prefix + new):
                seen = position + 1 if causal else prefix + new
                slots = self.req_to_token[row, :seen]
                for head in range(self.query_heads):
                    keys = self.k_cache[slots, head // group].double()
                    values = self.v_cache[slots, head // group].double()
                    scores = keys @ self.query[token, head].double() * factor
                    output[token, head] = torch.softmax(scores, dim=0) @ values
                token += 1
        return output


@st.composite
def batches(draw):
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    lengths = st.tuples(st.integers(0, 12), st.integers(1, 12))
    requests = draw(st.lists(lengths, min_size=1, max_size=4))
    return Batch(
        prefixes=[prefix for prefix, _ in requests],
        new=[new for _, new in requests],
        query_heads=kv_heads * draw(st.sampled_from([1, 2, 4])),
        kv_heads=kv_heads,
        dim=draw(st.sampled_from([4, 16])),
        seed=draw(st.integers(0, 2**16)),
    )


@settings(max_examples=60, deadline=None)
@given(batch=batches(), causal=st.booleans(), scaling=st.sampled_from([None, 0.3]))
def test_ragged_batches_attend_as_one_softmax_a_query_does(batch, causal, scaling):
    attended = batch.attend(causal=causal, scaling=scaling).double()
    expected = batch.attend_naively(causal=causal, scaling=scaling)
    torch.testing.assert_close(attended, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_stays_within_its_rounding(dtype):
    batch = Batch(prefixes=[11, 0, 5], new=[3, 7, 1], query_heads=6, kv_heads=2, dim=16, seed=1)
    attended = batch.attend(dtype=dtype).double()
    torch.testing.assert_close(attended, batch.attend_naively(), atol=3e-2, rtol=3e-2)


def test_a_cache_of_another_dtype_is_read_in_the_querys():
    batch = Batch(prefixes=[6], new=[4], query_heads=4, kv_heads=2, dim=8, seed=2)
    batch.k_cache, batch.v_cache = batch.k_cache.half(), batch.v_cache.half()
    query, prefixes, new = batch.query, torch.tensor([6]), torch.tensor([4])
    attended = extend_attention(
        query,
        torch.empty_like(query),
        batch.k_cache,
        batch.v_cache,
        batch.req_to_token,
        batch.rows,
        prefixes + new,
        prefixes,
        new,
        scaling=None,
        enable_gqa=True,
        causal=True,
    )
    torch.testing.assert_close(attended.double(), batch.attend_naively(), atol=1e-5, rtol=1e-5)
