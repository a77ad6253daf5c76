"""A step of new tokens in C against the same layers in float64, over ragged batches."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_llama import HALF, POSITIONS, REQUESTS, Model, Pool

from pdcache.sglang_cpu import prefill, steps
from pdcache.sglang_cpu.attention import plan_extend
from pdcache.sglang_cpu.prefill_step import ROWS, prefill_step

pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture(autouse=True)
def the_pool(monkeypatch):
    monkeypatch.setattr(steps, "POOL", SimpleNamespace(get=lambda: Pool))


def extending(prefixes, new, **sizes):
    model = Model(prefixes, new, **sizes)
    model.backend.suffixes = plan_extend(model.table, model.rows.tolist(), prefixes, new)
    return model


@st.composite
def lengths(draw):
    new = draw(
        st.lists(
            st.one_of(st.sampled_from([1, 2, ROWS, ROWS + 1]), st.integers(1, POSITIONS - 20)),
            min_size=1,
            max_size=REQUESTS,
        )
    )
    return [draw(st.integers(0, POSITIONS - count)) for count in new], new


@settings(max_examples=30, deadline=None)
@given(
    lengths=lengths(),
    kv_heads=st.sampled_from([1, 2]),
    share=st.integers(1, 4),
    dim=st.sampled_from([16, 64]),
    inner=st.sampled_from([16, 48]),
    last_only=st.booleans(),
    dtype=st.sampled_from([torch.float32, HALF]),
    seed=st.integers(0, 9),
)
def test_a_step_in_c_is_the_layers_one_after_the_other(
    lengths, kv_heads, share, dim, inner, last_only, dtype, seed
):
    model = extending(
        *lengths,
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
    got = model.step_with(prefill_step, last_only=last_only)
    assert got.shape == wanted.shape
    if last_only:
        last = [end - 1 for end in itertools.accumulate(model.new)]
        others = torch.ones(len(got), dtype=torch.bool)
        others[last] = False
        assert got[others].isnan().all()
        got, wanted = got[last], wanted[last]
    model.check(got, wanted)
    assert torch.equal(model.hidden, asked), "the embeddings belong to the caller"
    model.check_caches(kept, before)


def test_embeddings_that_do_not_lie_together_are_taken():
    model = extending([3], [40])
    wanted, _ = model.naively()
    model.hidden = model.hidden.t().contiguous().t()
    model.check(model.step_with(prefill_step), wanted)


def test_a_layer_is_waited_for_when_its_turn_comes(monkeypatch):
    model, seen = extending([20], [30]), []
    real = prefill.extend
    monkeypatch.setattr(
        "pdcache.sglang_cpu.prefill_step.extend",
        lambda *args, **kwargs: (seen.append([*model.pool.awaited]), real(*args, **kwargs))[1],
    )
    model.step_with(prefill_step)
    assert seen == [[0], [0, 1]]


@pytest.mark.parametrize("what", ["no plan", "another dtype", "too many heads a group"])
def test_what_c_does_not_take_is_left_to_the_layers(what):
    model = extending([3], [5], heads=100 if what == "too many heads a group" else 3)
    if what == "no plan":
        model.backend.suffixes = None
    elif what == "another dtype":
        model.hidden = model.hidden.bfloat16()
    assert model.step_with(prefill_step) is None
