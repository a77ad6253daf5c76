from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pdcache.sglang_cpu.decoder import reads_last_only, rotate, rotation_of


@settings(max_examples=40, deadline=None)
@given(
    positions=st.lists(st.integers(0, 63), min_size=1, max_size=5),
    heads=st.integers(1, 4),
    half=st.sampled_from([1, 4, 8]),
)
def test_the_halves_of_a_head_turn_by_their_positions_angles(positions, heads, half):
    speeds = 100.0 ** -(torch.arange(half) / half)
    angles = torch.arange(64).unsqueeze(1) * speeds
    table = torch.cat((angles.cos(), angles.sin()), dim=-1)
    x = torch.randn(len(positions), heads, 2 * half)
    turned = rotate(x, rotation_of(table[positions]))
    for token, position in enumerate(positions):
        for at in range(half):
            cos, sin = math.cos(angles[position, at]), math.sin(angles[position, at])
            left, right = x[token, :, at], x[token, :, at + half]
            torch.testing.assert_close(turned[token, :, at], left * cos - right * sin)
            torch.testing.assert_close(turned[token, :, at + half], right * cos + left * sin)


def test_a_rotation_keeps_the_dtype_and_the_input():
    x = torch.randn(2, 3, 8).bfloat16()
    before = x.clone()
    turned = rotate(x, rotation_of(torch.rand(2, 8).bfloat16()))
    assert turned.dtype == torch.bfloat16
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("what", "value", "only"),
    [
        (None, None, True),
        ("forward_mode", "MIXED", False),
        ("forward_mode", "TARGET_VERIFY", False),
        ("return_logprob", True, False),
        ("capture_hidden_mode", True, False),
        ("token_indices_to_pool", [torch.tensor([1])], False),
        ("multi_item_delimiter_indices", [torch.tensor([1])], False),
    ],
)
def test_all_tokens_of_a_prompt_are_computed_where_more_than_the_last_is_read(what, value, only):
    asked = {
        "forward_mode": "EXTEND", "return_logprob": False, "capture_hidden_mode": False,
        "token_indices_to_pool": None, "multi_item_delimiter_indices": None,
    }  # fmt: skip
    asked |= {what: value} if what else {}
    asked["forward_mode"] = SimpleNamespace(name=asked["forward_mode"])
    captures = asked["capture_hidden_mode"]
    asked["capture_hidden_mode"] = SimpleNamespace(need_capture=lambda: captures)
    assert reads_last_only(SimpleNamespace(**asked)) is only
