"""A decode step in C against the same layers in float64, over ragged batches."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_llama import HALF, POSITIONS, REQUESTS, SLOTS, Model, Pool, linear

from pdcache.sglang_cpu import steps
from pdcache.sglang_cpu.attention import plan_decode
from pdcache.sglang_cpu.decode_step import decode_step
from pdcache.sglang_cpu.linear import PACKED, pack

pytestmark = pytest.mark.usefixtures("level")


@pytest.fixture(autouse=True)
def the_pool(monkeypatch):
    monkeypatch.setattr(steps, "POOL", SimpleNamespace(get=lambda: Pool))


def decoding(lengths, **sizes):
    """A model that is to decode; lengths have the new token included."""
    model = Model([length - 1 for length in lengths], [1] * len(lengths), **sizes)
    model.backend.decode = plan_decode(model.table, model.rows, torch.tensor(lengths))
    return model


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, POSITIONS), min_size=1, max_size=REQUESTS),
    kv_heads=st.sampled_from([1, 2]),
    share=st.integers(1, 5),
    dim=st.sampled_from([16, 32, 64]),
    inner=st.sampled_from([16, 48]),
    dtype=st.sampled_from([torch.float32, HALF]),
    seed=st.integers(0, 9),
)
def test_a_step_in_c_is_the_layers_one_after_the_other(
    lengths, kv_heads, share, dim, inner, dtype, seed
):
    model = decoding(
        lengths,
        heads=kv_heads * share,
        kv_heads=kv_heads,
        dim=dim,
        inner=inner,
        dtype=dtype,
        seed=seed,
    )
    before = model.copies()
    wanted, kept = model.naively()
    asked = model.hidden.clone()
    got = model.step_with(decode_step)
    model.check(got, wanted)
    assert torch.equal(model.hidden, asked), "the embeddings belong to the caller"
    model.check_caches(kept, before)


def test_a_step_waits_for_what_is_loaded_into_each_layer():
    model = decoding([3])
    model.step_with(decode_step)
    assert model.pool.awaited == [0, 1]


@pytest.mark.parametrize("gate", [-200.0, -20.0, -0.0, 0.0, 20.0, 200.0])
def test_gates_far_from_zero_neither_overflow_nor_vanish(gate):
    model = decoding([3])
    for own in model.layers:
        own.mlp_norm.weight.fill_(abs(gate) + 1)
    wanted, _ = model.naively()
    got = model.step_with(decode_step).double()
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


def change(model, what):
    first = model.layers[0]
    if what == "no decode step":
        model.backend.decode = None
    elif what == "another dtype":
        model.hidden = model.hidden.bfloat16()
    elif what == "another pool":
        model.backend.token_to_kv_pool = SimpleNamespace()
    elif what == "pages of heads":
        model.pool.use_hnd = True
    elif what == "a cache in bfloat16":
        model.pool.dtype = torch.bfloat16
    elif what == "weights that need all their bits":
        first.down.__dict__[PACKED] = pack(torch.rand_like(first.down.dense))
    elif what == "a product of another shape":
        first.output.__dict__[PACKED] = linear(*reversed(first.qkv.dense.shape)).__dict__[PACKED]
    elif what == "a window":
        first.attention.sliding_window_size = 8
    elif what == "tokens that see later ones":
        first.attention.attn_type.value = "encoder_only"
    elif what == "another epsilon":
        first.mlp_norm.variance_epsilon = 1e-6


@pytest.mark.parametrize(
    "what",
    ["no decode step", "another dtype", "another pool", "pages of heads", "a cache in bfloat16",
     "weights that need all their bits", "a product of another shape", "a window",
     "tokens that see later ones", "another epsilon"],
)  # fmt: skip
def test_what_c_does_not_take_is_left_to_the_layers(what):
    model = decoding([3])
    change(model, what)
    assert model.step_with(decode_step) is None


def test_sizes_that_are_not_whole_vectors_are_left_to_the_layers():
    for sizes in ({"size": 24}, {"inner": 24}, {"dim": 8}):
        assert decoding([3], **sizes).step_with(decode_step) is None


@pytest.mark.parametrize("slot", [-1, SLOTS])
def test_a_slot_outside_the_pool_is_refused(slot):
    model = decoding([3])
    model.slots[0] = slot
    with pytest.raises(ValueError, match=f"slots .{slot}. of {SLOTS}"):
        model.step_with(decode_step)
