"""A small plain Llama as `plain_layers` finds one, and the same in float64, request by request."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch.nn.functional import silu

from pdcache.sglang_cpu.decoder import Layer, rotate, rotation_of
from pdcache.sglang_cpu.linear import PACKED, pack

HALF = torch.bfloat16
EPSILON, SLOTS, REQUESTS, POSITIONS = 1e-5, 640, 4, 160


class Pool:
    """Keys and values of each layer, [slots, KV heads, dim], as SGLang's plain pool has them."""

    use_hnd = False

    def __init__(self, layers, kv_heads, dim, dtype):
        self.dtype = dtype
        self.keys = [torch.randn(SLOTS, kv_heads, dim).to(dtype) for _ in range(layers)]
        self.values = [torch.randn(SLOTS, kv_heads, dim).to(dtype) for _ in range(layers)]
        self.awaited = []

    def _get_key_buffer(self, layer):
        return self.keys[layer]

    def _get_value_buffer(self, layer):
        return self.values[layer]

    def get_key_buffer(self, layer):
        self.awaited.append(layer)
        return self.keys[layer]

    def get_value_buffer(self, layer):
        return self.values[layer]


def linear(outputs, inputs, dtype=torch.float32):
    weight = (torch.randn(outputs, inputs) / math.sqrt(inputs)).bfloat16().to(dtype)
    made = SimpleNamespace(dense=weight)
    made.__dict__[PACKED] = pack(weight)
    return made


def norm(size, dtype):
    return SimpleNamespace(weight=(torch.rand(size) + 0.5).to(dtype), variance_epsilon=EPSILON)


def layer(number, size, heads, kv_heads, dim, inner, dtype):
    attention = SimpleNamespace(
        tp_q_head_num=heads, tp_k_head_num=kv_heads, tp_v_head_num=kv_heads, head_dim=dim,
        qk_head_dim=dim, v_head_dim=dim, scaling=1 / math.sqrt(dim), layer_id=number,
        is_cross_attention=False, sliding_window_size=-1,
        attn_type=SimpleNamespace(value="decoder"),
    )  # fmt: skip
    return Layer(
        norm(size, dtype), linear((heads + 2 * kv_heads) * dim, size, dtype), attention,
        linear(size, heads * dim, dtype), norm(size, dtype), linear(2 * inner, size, dtype),
        linear(size, inner, dtype),
    )  # fmt: skip


class Model:
    """Some layers, a batch whose sequences lie scattered over the pool, and its new tokens.

    Args:
        prefixes, new: tokens of each request that are in the pool, and that are not.
    """

    def __init__(
        self, prefixes, new, *, size=32, heads=3, kv_heads=1, dim=16, inner=48,
        dtype=torch.float32, seed=0,
    ):  # fmt: skip
        torch.manual_seed(seed)
        self.dtype = dtype
        self.layers = [layer(at, size, heads, kv_heads, dim, inner, dtype) for at in range(2)]
        self.last_norm = norm(size, dtype)
        self.pool = Pool(2, kv_heads, dim, dtype)
        self.table = torch.randperm(SLOTS).int().view(REQUESTS, POSITIONS)
        self.rows = torch.randperm(REQUESTS)[: len(new)]
        self.prefixes, self.new = prefixes, new
        self.slots = torch.cat([
            self.table[row, prefix : prefix + count].long()
            for row, prefix, count in zip(self.rows, prefixes, new, strict=True)
        ])  # fmt: skip
        self.hidden = torch.randn(sum(new), size).to(dtype)
        angle = torch.rand(sum(new), dim // 2) * 6
        self.angles = torch.cat((angle.cos(), angle.sin()), -1)
        self.backend = SimpleNamespace(token_to_kv_pool=self.pool)

    def step_with(self, step, **asked):
        """`decode_step` or `prefill_step` of it."""
        return step(
            self.layers, self.last_norm, self.hidden, self.angles, self.backend, self.slots, **asked
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
            of_each = (tokens.split(self.new) for tokens in (query, key, value))
            attended = torch.cat(
                [
                    self.attended(number, at, *own)
                    for at, own in enumerate(zip(*of_each, strict=True))
                ]
            )
            state = state + self.times(own.output, attended)
            gate, up = self.times(own.gate_up, self.normed(own.mlp_norm, state)).chunk(2, -1)
            state = state + self.times(own.down, silu(gate) * up)
        return self.normed(self.last_norm, state), kept

    def attended(self, number, request, query, key, value):
        slots = self.table[self.rows[request], : self.prefixes[request]].long()
        keys = torch.cat((self.pool.keys[number][slots].double(), key)).movedim(1, 0)
        values = torch.cat((self.pool.values[number][slots].double(), value)).movedim(1, 0)
        share = query.shape[1] // len(keys)
        scores = query.movedim(1, 0) @ keys.repeat_interleave(share, 0).mT
        sees = torch.ones(scores.shape[1:], dtype=torch.bool).tril_(len(slots))
        scores = (scores / math.sqrt(query.shape[-1])).masked_fill(~sees, -math.inf)
        mixed = scores.softmax(-1) @ values.repeat_interleave(share, 0)
        return mixed.movedim(1, 0).flatten(1)

    def check(self, got, wanted):
        """Within the rounding of the dtype."""
        tolerance = 1e-4 if self.dtype == torch.float32 else 4e-2
        torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)

    def check_caches(self, kept, before):
        """The pool has the new keys and values at their slots, and is as before elsewhere."""
        others = torch.ones(SLOTS, dtype=torch.bool)
        others[self.slots] = False
        caches = (*self.pool.keys, *self.pool.values)
        wanted = (*(keys for keys, _ in kept), *(values for _, values in kept))
        for cache, was, new in zip(caches, before, wanted, strict=True):
            self.check(cache[self.slots], new)
            assert torch.equal(cache[others], was[others]), "another slot was written"

    def copies(self):
        """Of what is in the pool."""
        return [cache.clone() for cache in (*self.pool.keys, *self.pool.values)]

    @staticmethod
    def times(product, rows):
        return rows @ product.dense.double().T

    @staticmethod
    def normed(by, rows):
        mean = rows.square().mean(-1, keepdim=True)
        return rows / (mean + EPSILON).sqrt() * by.weight.double()
