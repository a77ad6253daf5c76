"""The lane's attention against one softmax a query and head, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pdcache.sglang_cpu.attention import (
    decode_attention,
    decodes,
    extend_attention,
    plan_decode,
    plan_extend,
)

pytestmark = pytest.mark.usefixtures("level")

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
    scattered: bool = True

    def __post_init__(self):
        torch.manual_seed(self.seed)
        slots = REQUEST_ROWS * MAX_LENGTH
        self.query = torch.randn(sum(self.new), self.query_heads, self.dim)
        self.k_cache = torch.randn(slots, self.kv_heads, self.dim)
        self.v_cache = torch.randn(slots, self.kv_heads, self.dim)
        table = torch.randperm(slots) if self.scattered else torch.arange(slots)
        self.req_to_token = table.int().view(REQUEST_ROWS, MAX_LENGTH)
        self.rows = torch.randperm(REQUEST_ROWS)[: len(self.new)]
        self.lengths = [sum(pair) for pair in zip(self.prefixes, self.new, strict=True)]

    def poison_unused_slots(self):
        """NaN where no request's sequence lies: it must never be read."""
        used = [self.req_to_token[row, :n] for row, n in zip(self.rows, self.lengths, strict=True)]
        unused = torch.ones(len(self.k_cache), dtype=torch.bool)
        unused[torch.cat(used).long()] = False
        self.k_cache[unused] = self.v_cache[unused] = math.nan

    def extend(self, *, causal=True, scaling=None, dtype=torch.float32, cache=None):
        plan = plan_extend(self.req_to_token, self.rows.tolist(), self.prefixes, self.new)
        return extend_attention(
            self.query.to(dtype),
            self.k_cache.to(cache or dtype),
            self.v_cache.to(cache or dtype),
            plan,
            scaling=scaling,
            causal=causal,
        )

    def decode(self, *, scaling=None, dtype=torch.float32):
        return decode_attention(
            self.query.to(dtype),
            self.k_cache.to(dtype),
            self.v_cache.to(dtype),
            plan_decode(self.req_to_token, self.rows, torch.tensor(self.lengths)),
            scaling=scaling,
        )

    def naively(self, *, causal=True, scaling=None):
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
def batches(draw, most_new=12, dims=(4, 16), shares=(1, 2, 4)):
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    lengths = st.tuples(st.integers(0, 12), st.integers(1, most_new))
    requests = draw(st.lists(lengths, min_size=1, max_size=6))
    return Batch(
        prefixes=[prefix for prefix, _ in requests],
        new=[new for _, new in requests],
        query_heads=kv_heads * draw(st.sampled_from(shares)),
        kv_heads=kv_heads,
        dim=draw(st.sampled_from(dims)),
        seed=draw(st.integers(0, 2**16)),
        scattered=draw(st.booleans()),
    )


def assert_close(attended, expected, tolerance=1e-5):
    torch.testing.assert_close(attended.double(), expected, atol=tolerance, rtol=tolerance)


@settings(max_examples=60, deadline=None)
@given(batch=batches(), causal=st.booleans(), scaling=st.sampled_from([None, 0.3]))
def test_ragged_batches_extend_as_one_softmax_a_query_does(batch, causal, scaling):
    batch.poison_unused_slots()
    attended = batch.extend(causal=causal, scaling=scaling)
    assert_close(attended, batch.naively(causal=causal, scaling=scaling))


@settings(max_examples=80, deadline=None)
@given(
    batch=batches(most_new=1, dims=(16, 64, 80, 128), shares=(1, 3, 4, 7)),
    scaling=st.sampled_from([None, 0.3, 40.0]),
)
def test_ragged_batches_decode_as_one_softmax_a_query_does(batch, scaling):
    batch.poison_unused_slots()
    assert_close(batch.decode(scaling=scaling), batch.naively(scaling=scaling), tolerance=3e-4)


@settings(max_examples=40, deadline=None)
@given(batch=batches(), cut=st.integers(1, 11))
def test_a_prompt_in_two_chunks_attends_as_it_does_in_one(batch, cut):
    first = [min(cut, new) for new in batch.new]
    rest = [new - chunk for new, chunk in zip(batch.new, first, strict=True)]
    whole = batch.extend().split(batch.new)
    token_by_request = batch.query.split(batch.new)
    for prefixes, new, part in (
        (batch.prefixes, first, [slice(None, chunk) for chunk in first]),
        ([p + c for p, c in zip(batch.prefixes, first, strict=True)], rest,
         [slice(chunk, None) for chunk in first]),
    ):  # fmt: skip
        if not sum(new):
            continue
        plan = plan_extend(batch.req_to_token, batch.rows.tolist(), prefixes, new)
        query = torch.cat([q[span] for q, span in zip(token_by_request, part, strict=True)])
        chunk = extend_attention(
            query, batch.k_cache, batch.v_cache, plan, scaling=None, causal=True
        )
        expected = torch.cat([o[span] for o, span in zip(whole, part, strict=True)])
        torch.testing.assert_close(chunk, expected, atol=1e-5, rtol=1e-5)


def test_a_long_sequence_decodes_as_one_softmax_does():
    torch.manual_seed(0)
    query, (keys, values) = torch.randn(1, 2, 16), torch.randn(2, 5000, 1, 16)
    plan = plan_decode(
        torch.randperm(5000).int().view(1, -1), torch.tensor([0]), torch.tensor([5000])
    )
    attended = decode_attention(query, keys, values, plan, scaling=None)
    weights = torch.softmax(query[0].double() @ keys[:, 0].double().T / 4, dim=-1)
    assert_close(attended[0], weights @ values[:, 0].double())


def test_what_is_no_number_in_the_cache_is_no_number_in_the_answer():
    query, (keys, values) = torch.randn(1, 2, 16), torch.randn(2, 40, 1, 16)
    keys[7] = math.nan
    plan = plan_decode(torch.arange(40).int().view(1, -1), torch.tensor([0]), torch.tensor([40]))
    assert decode_attention(query, keys, values, plan, scaling=None).isnan().all()


@pytest.mark.parametrize("rows", ([0], [3]), ids=("too long", "no such row"))
def test_a_step_that_the_table_has_no_place_for_is_refused(rows):
    table = torch.arange(40).int().view(1, -1)
    with pytest.raises(ValueError, match="slots"):
        plan_decode(table, torch.tensor(rows), torch.tensor([41 if rows == [0] else 40]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_stays_within_its_rounding(dtype):
    batch = Batch(prefixes=[11, 0, 5], new=[3, 7, 1], query_heads=6, kv_heads=2, dim=16, seed=1)
    assert_close(batch.extend(dtype=dtype), batch.naively(), tolerance=3e-2)
    batch = Batch(prefixes=[11, 0, 5], new=[1, 1, 1], query_heads=6, kv_heads=2, dim=16, seed=1)
    if dtype == torch.bfloat16:
        assert_close(batch.decode(dtype=dtype), batch.naively(), tolerance=3e-2)


@pytest.mark.parametrize(
    ("cache", "taken"),
    [
        (torch.zeros(8, 2, 16), True),
        (torch.zeros(8, 2, 16).bfloat16(), True),
        (torch.zeros(8, 2, 16).half(), False),
        (torch.zeros(8, 2, 12), False),
        (torch.zeros(2, 8, 16).transpose(0, 1), False),
    ],
    ids=["float32", "bfloat16", "float16", "12 dims", "transposed"],
)
def test_decode_takes_only_what_its_functions_are_written_for(cache, taken):
    assert decodes(cache) is taken


def test_a_cache_of_another_dtype_is_read_in_the_querys():
    batch = Batch(prefixes=[6], new=[4], query_heads=4, kv_heads=2, dim=8, seed=2)
    attended = batch.extend(cache=torch.float16)
    batch.k_cache, batch.v_cache = batch.k_cache.half(), batch.v_cache.half()
    assert_close(attended, batch.naively())


def test_a_sequence_in_one_run_of_slots_is_not_copied():
    batch = Batch([20], [2], query_heads=4, kv_heads=2, dim=8, seed=3, scattered=False)
    (suffix,) = plan_extend(batch.req_to_token, batch.rows.tolist(), batch.prefixes, batch.new)
    assert isinstance(suffix.places, slice)
