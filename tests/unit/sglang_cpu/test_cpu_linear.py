from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import linear

from pdcache.sglang_cpu.linear import PIECE, _packed_head, pack, packable, packed_linear


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("outputs", "inputs"), [(96, 64), (100, 2100), (5, 3), (2 * PIECE + 40, 16)]
)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 16, 32, 33, 200])
def test_a_packed_weight_gives_what_the_dense_one_gives(rows, outputs, inputs, saved, bias):
    torch.manual_seed(rows)
    weight, x = torch.randn(outputs, inputs).to(saved).float(), torch.randn(rows, inputs)
    offset = torch.randn(outputs) if bias else None
    packed = pack(weight)
    assert (packed.halves is not None) == (saved == torch.bfloat16)
    result = packed_linear(x, packed, offset)
    expected = linear(x.double(), weight.double(), None if offset is None else offset.double())
    assert result.shape == (rows, outputs)
    torch.testing.assert_close(result.double(), expected, atol=1e-3, rtol=1e-5)


def test_rows_that_do_not_lie_together_are_taken():
    weight, x = torch.randn(8, 4).bfloat16().float(), torch.randn(4, 6).t()[:3]
    assert not x.is_contiguous()
    torch.testing.assert_close(packed_linear(x, pack(weight)), linear(x, weight))


def test_rows_of_another_dtype_are_refused_rather_than_misread():
    packed = pack(torch.randn(8, 4).bfloat16().float())
    with pytest.raises(RuntimeError):
        packed_linear(torch.randn(2, 4).bfloat16(), packed)


@pytest.mark.parametrize("rows", [1, 40])
def test_rows_of_another_length_are_refused_rather_than_misread(rows):
    packed = pack(torch.randn(8, 4).bfloat16().float())
    with pytest.raises(RuntimeError):
        packed_linear(torch.randn(rows, 3), packed)


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
        pack(torch.zeros(4, 4)).dense,
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
    assert torch.equal(second.dense.to_dense(), head.weight)
    head.weight = torch.randn(8, 4)
    assert torch.equal(_packed_head(head).dense.to_dense(), head.weight)


@pytest.mark.parametrize("rows", [1, 33, 200])
def test_a_head_saved_in_bfloat16_has_no_second_dense_weight(rows):
    head = SimpleNamespace(weight=torch.randn(100, 48).bfloat16().float())
    packed, x = _packed_head(head), torch.randn(rows, 48)
    assert packed.dense.data_ptr() == head.weight.data_ptr()
    assert packed.halves is not None
    torch.testing.assert_close(packed_linear(x, packed), linear(x, head.weight))
