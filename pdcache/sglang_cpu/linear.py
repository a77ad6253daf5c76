"""Linear layers on weights that are laid out anew at loading: for oneDNN, and for few rows.

A step of few rows costs the way of the weights from memory. Weights in float32 that were saved in
bfloat16 have nothing in their lower halves, so the upper ones are kept beside oneDNN's layout, and
`kernels.c` multiplies with them in float32: the same numbers from half the bytes.

Measured with torch 2.13.0 on one AVX-512 core, SmolLM2-135M in float32 (30 layers and the head),
dense, oneDNN's layout, halves: 1 row 47, 34, 11 ms; 8 rows 76, 40, 27 ms; 1,087 rows (without the
head) 3.3, 2.2, 2.9 s.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from pdcache.sglang_cpu.native import LANES, kernels
from pdcache.sglang_cpu.targets import Target

LINEAR = "sglang.srt.layers.quantization.unquant"
AFTER_LOADING = Target(LINEAR, "UnquantizedLinearMethod", "process_weights_after_loading")
APPLY = Target(LINEAR, "UnquantizedLinearMethod", "apply")
EMBEDDING = Target(LINEAR, "UnquantizedEmbeddingMethod")
LAYERS = tuple(
    Target("sglang.srt.layers.linear", name)
    for name in ("QKVParallelLinear", "MergedColumnParallelLinear", "RowParallelLinear")
)
"""The classes that are packed: models take the weight of others apart (MLA's ``kv_b_proj``)."""

LM_HEAD = Target("sglang.srt.layers.logits_processor", "LogitsProcessor", "_compute_lm_head")

ROWS = 16
"""The rows oneDNN is told to expect: this layout was the best or near it from 1 to 1,087."""

LEAST_ROWS = 4
"""With fewer rows oneDNN takes kernels that are slower than its kernel for four."""

FEW_ROWS = 32
"""With more rows oneDNN is as fast as `kernels.c`, or faster."""

PIECE = 512
"""Outputs whose weights are laid out at a time, whole blocks of `kernels.c`."""

PACKED = "pdcache_packed"
"""The attribute of a layer that has its `Packed`."""

PACKED_HEAD = "pdcache_packed_head"
"""The attribute of the head that has its weight, that weight's version, and its `Packed`."""


class Packed(NamedTuple):
    """A weight [outputs, inputs] laid out for its products.

    Attributes:
        dense: in oneDNN's layout; shape and values as they were, opaque memory. As it was for a
            head, of whose product few rows are asked.
        halves: [blocks of 32 outputs, inputs, 16], the upper halves of outputs i and i + 16 in one
            int32; None for a weight that is not float32 with empty lower halves.
    """

    dense: torch.Tensor
    halves: torch.Tensor | None


def install() -> None:
    """Lay out the weights of SGLang's unquantized linear layers and of the language model's head.

    A linear layer's weight is replaced, as SGLang does on CPUs with AMX (0.5.23
    layers/amx_utils.py), and like there nothing can be loaded into it again; the head's stays
    beside its copy, since the embedding may share it.
    """
    kernels()
    _pack_layers()
    _pack_head()


def pack(weight: torch.Tensor) -> Packed:
    """Lay out a dense weight that is `packable`."""
    weight = weight.detach()
    dense = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return Packed(dense, _halves(weight) if weight.dtype == torch.float32 else None)


def _pack_few_rows(weight: torch.Tensor) -> Packed:
    """Without a second dense one, where few rows do not need it: a head's is large."""
    halves = _halves(weight.detach()) if weight.dtype == torch.float32 else None
    return pack(weight) if halves is None else Packed(weight.detach(), halves)


def _halves(weight: torch.Tensor) -> torch.Tensor | None:
    outputs, inputs = weight.shape
    block = 2 * LANES
    result = torch.empty(-(-outputs // block), inputs, LANES, dtype=torch.int32)
    # In pieces, since new memory costs more than what is done with it.
    for start in range(0, outputs, PIECE):
        part = weight[start : start + PIECE]
        short = part.bfloat16()
        if not torch.equal(short.float(), part):
            return None
        full = torch.nn.functional.pad(short.view(torch.int16), (0, 0, 0, -len(part) % block))
        lower, upper = full.view(-1, 2, LANES, inputs).transpose(2, 3).int().unbind(1)
        at = start // block
        torch.bitwise_or(lower & 0xFFFF, upper << 16, out=result[at : at + len(lower)])
    return result


def packable(weight: torch.Tensor) -> bool:
    """Whether `pack` takes this weight, and wins by it."""
    if weight.is_mkldnn or weight.dim() != 2 or weight.device.type != "cpu" or not weight.numel():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(weight.dtype == torch.float32)


def packed_linear(
    rows: torch.Tensor, packed: Packed, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`torch.nn.functional.linear` of `rows` [..., inputs] with a weight from `pack`."""
    count = rows.numel() // rows.shape[-1]
    few = rows.dim() == 2 and rows.dtype == torch.float32 and 0 < count <= FEW_ROWS
    if few and packed.halves is not None:
        result = _few_rows(rows.contiguous(), packed.halves, packed.dense.shape[0])
        return result if bias is None else result.add_(bias)
    if rows.dim() == 2 and 0 < count < LEAST_ROWS:
        repeated = rows.expand(LEAST_ROWS, -1) if count == 1 else rows.repeat(LEAST_ROWS // 2, 1)
        return _linear(repeated, packed.dense, bias)[:count]
    return _linear(rows, packed.dense, bias)


def _few_rows(rows: torch.Tensor, halves: torch.Tensor, outputs: int) -> torch.Tensor:
    if rows.shape[1] != halves.shape[1]:
        raise RuntimeError(f"rows of {rows.shape[1]} numbers and a weight for {halves.shape[1]}")
    result = rows.new_empty(len(rows), outputs)
    kernels().linear(rows.data_ptr(), *rows.shape, halves.data_ptr(), result.data_ptr(), outputs)
    return result


def _linear(rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if not packed.is_mkldnn:
        return torch.nn.functional.linear(rows, packed, bias)
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(
        rows, packed, bias, "none", [], ""
    )
    return result


def _pack_layers() -> None:
    after_loading, apply = AFTER_LOADING.get(), APPLY.get()
    classes = tuple(target.get() for target in LAYERS)

    def process_weights_after_loading(self: Any, layer: Any) -> None:
        after_loading(self, layer)
        weight = layer.weight
        if type(layer) in classes and packable(weight):
            packed = pack(weight)
            layer.weight = torch.nn.Parameter(packed.dense, requires_grad=False)
            layer.weight.__dict__.update(weight.__dict__)
            layer.__dict__[PACKED] = packed

    def apply_packed(
        self: Any, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        if packed := layer.__dict__.get(PACKED):
            return packed_linear(x, packed, bias)
        result: torch.Tensor = apply(self, layer, x, bias)
        return result

    AFTER_LOADING.set(process_weights_after_loading)
    APPLY.set(apply_packed)


def _pack_head() -> None:
    compute, embedding = LM_HEAD.get(), EMBEDDING.get()

    def compute_lm_head(
        self: Any,
        hidden_states: torch.Tensor,
        lm_head: Any,
        embedding_bias: torch.Tensor | None = None,
        *,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        packed = None
        plain = type(getattr(lm_head, "quant_method", None)) is embedding and not (
            self.use_fp32_lm_head or self.rl_on_policy_target is not None
        )
        if plain and embedding_bias is None:
            packed = _packed_head(lm_head)
        if packed is None:
            logits: torch.Tensor = compute(self, hidden_states, lm_head, embedding_bias, out=out)
            return logits
        return packed_linear(hidden_states.to(packed.dense.dtype), packed)

    LM_HEAD.set(compute_lm_head)


def _packed_head(lm_head: Any) -> Packed | None:
    """The head's packed weight, made again when the weight is another or was written to."""
    weight = getattr(lm_head, "weight", None)
    if weight is None or not packable(weight):
        return None
    kept = lm_head.__dict__.get(PACKED_HEAD)
    if kept is None or kept[0] is not weight or kept[1] != weight._version:
        kept = (weight, weight._version, _pack_few_rows(weight))
        lm_head.__dict__[PACKED_HEAD] = kept
    packed: Packed = kept[2]
    return packed
