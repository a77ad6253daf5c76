from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import linear

from pdcache.sglang_cpu.linear import PIECE, _packed_head, pack, packable, packed_linear

pytestmark = pytest.mark.usefixtures("level")


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("outputs", "inputs"), [(96, 64), (100, 2100), (5, 6), (2 * PIECE + 40, 16)]
)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 11, 12, 13, 16, 32, 33, 97, 200])
def test_a_packed_weight_gives_what_the_dense_one_gives(rows, outputs, inputs, saved, bias):
    torch.manual_seed(rows)
    weight, x = torch.randn(outputs, inputs).to(saved).float(), torch.randn(rows, inputs)
    offset = torch.randn(outputs) if bias else None
    packed = pack(weight)
    assert (packed.halves is not None) == (saved == torch.bfloat16)
    assert (packed.dense is None) == (saved == torch.bfloat16)
    result = packed_linear(x, packed, offset)
    expected = linear(x.double(), weight.double(), None if offset is None else offset.double())
    assert result.shape == (rows, outputs)
    torch.testing.assert_close(result.double(), expected, atol=1e-3, rtol=1e-5)


def test_a_weight_of_an_odd_number_of_inputs_is_left_to_onednn():
    weight, x = torch.randn(5, 3).bfloat16().float(), torch.randn(4, 3)
    assert pack(weight).halves is None
    torch.testing.assert_close(packed_linear(x, pack(weight)), linear(x, weight))


def test_rows_that_do_not_lie_together_are_taken():
    weight, x = torch.randn(8, 4).bfloat16().float(), torch.randn(4, 6).t()[:3]
    assert not x.is_contiguous()
    torch.testing.assert_close(packed_linear(x, pack(weight)), linear(x, weight))


@pytest.mark.parametrize("rows", [2, 40])
def test_rows_of_another_dtype_are_refused_rather_than_misread(rows):
    packed = pack(torch.randn(8, 4).bfloat16().float())
    with pytest.raises(RuntimeError):
        packed_linear(torch.randn(rows, 4).bfloat16(), packed)


@pytest.mark.parametrize("rows", [1, 40])
def test_rows_of_another_length_are_refused_rather_than_misread(rows):
    packed = pack(torch.randn(8, 4).bfloat16().float())
    with pytest.raises(RuntimeError):
        packed_linear(torch.randn(rows, 3), packed)


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16], ids=str)
def test_no_rows_and_other_dimensions_are_taken(saved):
    weight = torch.randn(96, 64).to(saved).float()
    for shape in ((0, 64), (2, 3, 64), (2, 30, 64), (64,)):
        x = torch.randn(shape)
        torch.testing.assert_close(packed_linear(x, pack(weight)), linear(x, weight))


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("rows", [1, 3, 12, 40, 200])
def test_bfloat16_is_rounded_once(bias, rows):
    weight, x = torch.randn(100, 64).bfloat16(), torch.randn(rows, 64).bfloat16()
    offset = torch.randn(100).bfloat16() if bias else None
    packed = pack(weight)
    assert packed.halves is not None
    result = packed_linear(x, packed, offset)
    assert result.dtype == torch.bfloat16
    expected = linear(x.double(), weight.double(), None if offset is None else offset.double())
    torch.testing.assert_close(result.double(), expected, atol=0.05, rtol=2**-8)


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(4, 4, dtype=torch.int8),
        torch.zeros(4, 4, dtype=torch.float16),
        torch.zeros(4),
        torch.zeros(0, 4),
        pack(torch.rand(4, 4)).dense,
        torch.zeros(4, 4, device="meta"),
    ],
    ids=["int8", "float16", "vector", "empty", "packed", "a shape only"],
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
    assert packed.halves is not None
    assert packed.dense is None
    torch.testing.assert_close(packed_linear(x, packed), linear(x, head.weight))
