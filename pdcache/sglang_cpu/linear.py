"""Linear layers on weights that oneDNN has laid out for its kernels, once at loading.

Measured with torch 2.13.0 on one AVX-512 core, SmolLM2-135M in float32 (30 layers and the head):
1 row 47 -> 34 ms, 2 rows 90 -> 38, 8 rows 76 -> 40, 1,087 rows 3.3 -> 2.9 s.
"""

from __future__ import annotations

from typing import Any

import torch

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

PACKED_HEAD = "pdcache_packed_weight"


def install() -> None:
    """Lay out the weights of SGLang's unquantized linear layers and of the language model's head.

    A linear layer's weight is replaced, as SGLang does on CPUs with AMX (0.5.23
    layers/amx_utils.py), and like there nothing can be loaded into it again; the head's stays
    beside its copy, since the embedding may share it.
    """
    _pack_layers()
    _pack_head()


def pack(weight: torch.Tensor) -> torch.Tensor:
    """A dense weight [outputs, inputs] in oneDNN's layout; same shape and values, opaque memory."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
    return packed


def packable(weight: torch.Tensor) -> bool:
    """Whether `pack` takes this weight, and wins by it."""
    if weight.is_mkldnn or weight.dim() != 2 or weight.device.type != "cpu" or not weight.numel():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(weight.dtype == torch.float32)


def packed_linear(
    rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`torch.nn.functional.linear` of `rows` [..., inputs] with a weight from `pack`."""
    count = rows.numel() // rows.shape[-1]
    if rows.dim() == 2 and 0 < count < LEAST_ROWS:
        repeated = rows.expand(LEAST_ROWS, -1) if count == 1 else rows.repeat(LEAST_ROWS // 2, 1)
        return _linear(repeated, packed, bias)[:count]
    return _linear(rows, packed, bias)


def _linear(rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
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
            layer.weight = torch.nn.Parameter(pack(weight), requires_grad=False)
            layer.weight.__dict__.update(weight.__dict__)

    def apply_packed(
        self: Any, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        if layer.weight.is_mkldnn:
            return packed_linear(x, layer.weight, bias)
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


def _packed_head(lm_head: Any) -> torch.Tensor | None:
    """The head's packed weight, made again when the weight is another or was written to."""
    weight = getattr(lm_head, "weight", None)
    if weight is None or not packable(weight):
        return None
    kept = lm_head.__dict__.get(PACKED_HEAD)
    if kept is None or kept[0] is not weight or kept[1] != weight._version:
        kept = (weight, weight._version, pack(weight))
        lm_head.__dict__[PACKED_HEAD] = kept
    packed: torch.Tensor = kept[2]
    return packed
