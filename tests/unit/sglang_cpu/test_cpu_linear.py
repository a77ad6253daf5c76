from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import linear

from pdcache.sglang_cpu.linear import _packed_head, pack, packable, packed_linear


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 16, 33, 200])
def test_a_packed_weight_gives_what_the_dense_one_gives(rows, bias):
    torch.manual_seed(rows)
    weight, x = torch.randn(96, 64), torch.randn(rows, 64)
    offset = torch.randn(96) if bias else None
    result = packed_linear(x, pack(weight), offset)
    expected = linear(x.double(), weight.double(), None if offset is None else offset.double())
    assert result.shape == (rows, 96)
    torch.testing.assert_close(result.double(), expected, atol=1e-4, rtol=1e-5)


def test_no_rows_and_more_dimensions_are_taken():
    packed = pack(torch.randn(96, 64))
    assert packed_linear(torch.randn(0, 64), packed).shape == (0, 96)
    assert packed_linear(torch.randn(2, 3, 64), packed).shape == (2, 3, 96)


def test_bfloat16_stays_within_its_rounding():
    weight, x = torch.randn(96, 64).bfloat16(), torch.randn(3, 64).bfloat16()
    if packable(weight):
        expected = linear(x.double(), weight.double())
        result = packed_linear(x, pack(weight)).double()
        torch.testing.assert_close(result, expected, atol=0.1, rtol=2e-2)


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(4, 4, dtype=torch.int8),
        torch.zeros(4, 4, dtype=torch.float16),
        torch.zeros(4),
        torch.zeros(0, 4),
        pack(torch.zeros(4, 4)),
    ],
    ids=["int8", "float16", "vector", "empty", "packed"],
)
def test_only_dense_matrices_of_the_lanes_dtypes_are_packed(weight):
    assert not packable(weight)


def test_the_head_is_packed_once_and_again_after_its_weight_was_written_to():
    head = SimpleNamespace(weight=torch.randn(8, 4))
    first = _packed_head(head)
    assert _packed_head(head) is first
    head.weight.mul_(2)
    second = _packed_head(head)
    assert torch.equal(second.to_dense(), head.weight)
    head.weight = torch.randn(8, 4)
    assert torch.equal(_packed_head(head).to_dense(), head.weight)
