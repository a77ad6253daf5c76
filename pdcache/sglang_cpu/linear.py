"""Linear layers on weights that are laid out anew at loading: for `linear.c`, or for oneDNN.

Weights in float32 that were saved in bfloat16 have nothing in their lower halves, so `linear.c`
keeps the upper ones and multiplies with them in float32: the same numbers from half the bytes. A
step of few rows costs the way of the weights from memory; of many rows the core sets the pace, and
here it takes 107 of the 116 GFLOP/s that it can. Rows in bfloat16 are multiplied as they are where
the processor can (AVX512_BF16), elsewhere as float32.

Measured with torch 2.13.0 on one AVX-512 core, SmolLM2-135M in float32 (30 layers and the head),
dense, oneDNN's layout, halves: 1 row 47, 34, 11 ms; 8 rows 76, 40, 27 ms; 1,087 rows (without the
head) 3.3, 2.2, 2.1 s.
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

BLOCK = 2 * LANES
"""Outputs of a block of `linear.c`."""

PIECE = 16 * BLOCK
"""Outputs whose weights are laid out at a time."""

PACKED = "pdcache_packed"
"""The attribute of a layer that has its `Packed`."""

PACKED_HEAD = "pdcache_packed_head"
"""The attribute of the head that has its weight, that weight's version, and its `Packed`."""


class Packed(NamedTuple):
    """A weight [outputs, inputs] laid out for its products.

    Attributes:
        outputs, dtype: of the weight.
        halves: [blocks of 32 outputs, pairs of inputs, 32], an output's bfloat16 of the even input
            (below) and of the odd one in an int32; None for an odd number of inputs, and for
            float32 with something in its lower halves.
        dense: in oneDNN's layout where there are no halves; shape and values as they were, opaque
            memory.
    """

    outputs: int
    dtype: torch.dtype
    dense: torch.Tensor | None
    halves: torch.Tensor | None


def install() -> None:
    """Lay out the weights of SGLang's unquantized linear layers and of the language model's head.

    A linear layer's weight is replaced, as SGLang does on CPUs with AMX (0.5.23
    layers/amx_utils.py), and like there nothing can be loaded into it again: it is in oneDNN's
    layout, or has a shape only. The head's stays beside its copy, since the embedding may share it.
    """
    kernels()
    _pack_layers()
    _pack_head()


def pack(weight: torch.Tensor) -> Packed:
    """Lay out a dense weight that is `packable`."""
    weight = weight.detach()
    halves, dense = _halves(weight), None
    if halves is None:
        dense = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return Packed(len(weight), weight.dtype, dense, halves)


def _halves(weight: torch.Tensor) -> torch.Tensor | None:
    outputs, inputs = weight.shape
    if inputs % 2:
        return None
    result = torch.empty(-(-outputs // BLOCK), inputs // 2, BLOCK, dtype=torch.int32)
    # In pieces, since new memory costs more than what is done with it.
    for start in range(0, outputs, PIECE):
        part = weight[start : start + PIECE]
        short = part.bfloat16().contiguous()
        if not torch.equal(short.to(part.dtype), part):
            return None
        pairs = torch.nn.functional.pad(short.view(torch.int32), (0, 0, 0, -len(part) % BLOCK))
        pairs = pairs.view(-1, BLOCK, inputs // 2).transpose(1, 2)
        result[start // BLOCK :][: len(pairs)] = pairs
    return result


def packable(weight: torch.Tensor) -> bool:
    """Whether `pack` takes this weight, and wins by it."""
    if weight.is_mkldnn or weight.dim() != 2 or weight.device.type != "cpu" or not weight.numel():
        return False
    if weight.dtype == torch.bfloat16:
        return not weight.shape[1] % 2 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(weight.dtype == torch.float32)


def packed_linear(
    rows: torch.Tensor, packed: Packed, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`torch.nn.functional.linear` of `rows` [..., inputs] with a weight from `pack`.

    Raises:
        RuntimeError: rows are of another length or dtype than the weight.
    """
    flat = rows.reshape(-1, rows.shape[-1])
    count = len(flat)
    if packed.halves is not None:
        result = _by_halves(flat.contiguous(), packed)
        result = (result if bias is None else result.add_(bias)).to(rows.dtype)
    elif 0 < count < LEAST_ROWS:
        repeated = flat.expand(LEAST_ROWS, -1) if count == 1 else flat.repeat(LEAST_ROWS // 2, 1)
        result = _linear(repeated, packed, bias)[:count]
    else:
        result = _linear(flat, packed, bias)
    return result.view(*rows.shape[:-1], packed.outputs)


def _by_halves(rows: torch.Tensor, packed: Packed) -> torch.Tensor:
    """In float32."""
    assert packed.halves is not None
    inputs = 2 * packed.halves.shape[1]
    if rows.shape[1] != inputs or rows.dtype != packed.dtype:
        raise RuntimeError(
            f"rows of {rows.shape[1]} {rows.dtype} and a weight for {inputs} {packed.dtype}"
        )
    result = torch.empty(len(rows), packed.outputs)
    kernels().linear(
        rows.data_ptr(), rows.dtype == torch.bfloat16, *rows.shape, packed.halves.data_ptr(),
        result.data_ptr(), packed.outputs,
    )  # fmt: skip
    return result


def _linear(rows: torch.Tensor, packed: Packed, bias: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(
        rows, packed.dense, bias, "none", [], ""
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
            shape_only = torch.empty_like(weight, device="meta")
            kept = shape_only if packed.dense is None else packed.dense
            layer.weight = torch.nn.Parameter(kept, requires_grad=False)
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
        return packed_linear(hidden_states.to(packed.dtype), packed)

    LM_HEAD.set(compute_lm_head)


def _packed_head(lm_head: Any) -> Packed | None:
    """The head's packed weight, made again when the weight is another or was written to."""
    weight = getattr(lm_head, "weight", None)
    if weight is None or not packable(weight):
        return None
    kept = lm_head.__dict__.get(PACKED_HEAD)
    if kept is None or kept[0] is not weight or kept[1] != weight._version:
        kept = (weight, weight._version, pack(weight))
        lm_head.__dict__[PACKED_HEAD] = kept
    packed: Packed = kept[2]
    return packed
