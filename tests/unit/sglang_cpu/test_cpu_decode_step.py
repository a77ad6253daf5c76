"""A decode step in C against the same layers in float64, over ragged batches."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import silu

from pdcache.sglang_cpu import decode_step as module
from pdcache.sglang_cpu.attention import plan_decode
from pdcache.sglang_cpu.decode_step import decode_step
from pdcache.sglang_cpu.decoder import Layer, rotate, rotation_of
from pdcache.sglang_cpu.linear import PACKED, pack

EPSILON, SLOTS, REQUESTS, POSITIONS = 1e-5, 96, 4, 24


class Pool:
    """Keys and values of each layer, [slots, KV heads, dim], as SGLang's plain pool has them."""

    use_hnd, dtype = False, torch.float32

    def __init__(self, layers, kv_heads, dim):
        self.keys = [torch.randn(SLOTS, kv_heads, dim) for _ in range(layers)]
        self.values = [torch.randn(SLOTS, kv_heads, dim) for _ in range(layers)]

    def get_key_buffer(self, layer):
        return self.keys[layer]

    def get_value_buffer(self, layer):
        return self.values[layer]


@pytest.fixture(autouse=True)
def the_pool(monkeypatch):
    monkeypatch.setattr(module, "POOL", SimpleNamespace(get=lambda: Pool))


def linear(outputs, inputs):
    weight = (torch.randn(outputs, inputs) / math.sqrt(inputs)).bfloat16().float()
    made = SimpleNamespace(dense=weight)
    made.__dict__[PACKED] = pack(weight)
    return made


def norm(size):
    return SimpleNamespace(weight=torch.rand(size) + 0.5, variance_epsilon=EPSILON)


def layer(number, size, heads, kv_heads, dim, inner):
    attention = SimpleNamespace(
        tp_q_head_num=heads, tp_k_head_num=kv_heads, tp_v_head_num=kv_heads, head_dim=dim,
        qk_head_dim=dim, v_head_dim=dim, scaling=1 / math.sqrt(dim), layer_id=number,
        is_cross_attention=False, sliding_window_size=-1,
    )  # fmt: skip
    return Layer(
        norm(size), linear((heads + 2 * kv_heads) * dim, size), attention,
        linear(size, heads * dim), norm(size), linear(2 * inner, size), linear(size, inner),
    )  # fmt: skip


class Model:
    """Some layers, a batch whose sequences lie scattered over the pool, and its new tokens."""

    def __init__(self, lengths, *, size=32, heads=3, kv_heads=1, dim=16, inner=48, seed=0):
        torch.manual_seed(seed)
        self.layers = [layer(at, size, heads, kv_heads, dim, inner) for at in range(2)]
        self.last_norm = norm(size)
        self.pool = Pool(2, kv_heads, dim)
        self.table = torch.randperm(SLOTS).int().view(REQUESTS, POSITIONS)
        self.rows = torch.randperm(REQUESTS)[: len(lengths)]
        self.lengths = torch.tensor(lengths)
        self.slots = self.table[self.rows, self.lengths - 1].long()
        self.hidden = torch.randn(len(lengths), size)
        angle = torch.rand(len(lengths), dim // 2) * 6
        self.angles = torch.cat((angle.cos(), angle.sin()), -1)
        self.backend = SimpleNamespace(
            decode=plan_decode(self.table, self.rows, self.lengths), token_to_kv_pool=self.pool
        )

    def step(self):
        return decode_step(
            self.layers, self.last_norm, self.hidden, self.angles, self.backend, self.slots
        )

    def naively(self):
        """The result, and each layer's new keys and values."""
        state, kept = self.hidden.double(), []
        rotation = rotation_of(self.angles.double())
        for number, own in enumerate(self.layers):
            heads, kv = own.attention.tp_q_head_num, own.attention.tp_k_head_num
            qkv = self.times(own.qkv, self.normed(own.attention_norm, state))
            qkv = qkv.unflatten(-1, (-1, own.attention.head_dim))
            turned = rotate(qkv[:, : heads + kv], rotation)
            query, key, value = turned[:, :heads], turned[:, heads:], qkv[:, heads + kv :]
            kept.append((key, value))
            attended = torch.stack(
                [self.attended(number, at, query[at], key[at], value[at])
                 for at in range(len(state))]
            )  # fmt: skip
            state = state + self.times(own.output, attended)
            gate, up = self.times(own.gate_up, self.normed(own.mlp_norm, state)).chunk(2, -1)
            state = state + self.times(own.down, silu(gate) * up)
        return self.normed(self.last_norm, state), kept

    def attended(self, number, request, query, key, value):
        length = int(self.lengths[request])
        slots = self.table[self.rows[request], : length - 1].long()
        keys = torch.cat((self.pool.keys[number][slots].double(), key.unsqueeze(0)))
        values = torch.cat((self.pool.values[number][slots].double(), value.unsqueeze(0)))
        share, out = len(query) // keys.shape[1], []
        for head, asked in enumerate(query):
            scores = keys[:, head // share] @ asked / math.sqrt(len(asked))
            out.append(scores.softmax(0) @ values[:, head // share])
        return torch.cat(out)

    @staticmethod
    def times(product, rows):
        return rows @ product.dense.double().T

    @staticmethod
    def normed(by, rows):
        mean = rows.square().mean(-1, keepdim=True)
        return rows / (mean + EPSILON).sqrt() * by.weight.double()


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, POSITIONS), min_size=1, max_size=REQUESTS),
    kv_heads=st.sampled_from([1, 2]),
    share=st.integers(1, 5),
    dim=st.sampled_from([16, 32, 64]),
    inner=st.sampled_from([16, 48]),
    seed=st.integers(0, 9),
)
def test_a_step_in_c_is_the_layers_one_after_the_other(lengths, kv_heads, share, dim, inner, seed):
    model = Model(
        lengths, heads=kv_heads * share, kv_heads=kv_heads, dim=dim, inner=inner, seed=seed
    )
    before = [cache.clone() for cache in (*model.pool.keys, *model.pool.values)]
    wanted, kept = model.naively()
    asked = model.hidden.clone()
    got = model.step()
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.hidden, asked), "the embeddings belong to the caller"
    for number, (keys, values) in enumerate(kept):
        for cache, was, new in (
            (model.pool.keys[number], before[number], keys),
            (model.pool.values[number], before[2 + number], values),
        ):
            torch.testing.assert_close(cache[model.slots].double(), new, rtol=1e-4, atol=1e-4)
            others = torch.ones(SLOTS, dtype=torch.bool)
            others[model.slots] = False
            assert torch.equal(cache[others], was[others]), "another slot was written"


@pytest.mark.parametrize("gate", [-200.0, -20.0, -0.0, 0.0, 20.0, 200.0])
def test_gates_far_from_zero_neither_overflow_nor_vanish(gate):
    model = Model([3])
    for own in model.layers:
        own.mlp_norm.weight.fill_(abs(gate) + 1)
    wanted, _ = model.naively()
    torch.testing.assert_close(model.step().double(), wanted, rtol=1e-3, atol=1e-3)


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
    elif what == "another epsilon":
        first.mlp_norm.variance_epsilon = 1e-6
    elif what == "too many rows":
        model.hidden = model.hidden.expand(33, -1)


@pytest.mark.parametrize(
    "what",
    ["no decode step", "another dtype", "another pool", "pages of heads", "a cache in bfloat16",
     "weights that need all their bits", "a product of another shape", "a window",
     "another epsilon", "too many rows"],
)  # fmt: skip
def test_what_c_does_not_take_is_left_to_the_layers(what):
    model = Model([3])
    change(model, what)
    assert model.step() is None


def test_sizes_that_are_not_whole_vectors_are_left_to_the_layers():
    assert Model([3], size=24).step() is None
    assert Model([3], inner=24).step() is None
    assert Model([3], dim=8).step() is None


@pytest.mark.parametrize("slot", [-1, SLOTS])
def test_a_slot_outside_the_pool_is_refused(slot):
    model = Model([3])
    model.slots[0] = slot
    with pytest.raises(ValueError, match=f"slots .{slot}. of {SLOTS}"):
        model.step()
