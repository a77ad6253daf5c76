"""A plain Llama's layers as a handful of operations each, without what SGLang does around them.

On one core SGLang 0.5.23 spends more of a decode step on the way through its modules, which serve
parallel ranks, quantized weights and fused GPU kernels, than on operations other than matrix
products. A model that has none of these (`plain_layers`) takes this way; any other keeps SGLang's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import rms_norm, silu

from pdcache.sglang_cpu.decode_step import decode_step
from pdcache.sglang_cpu.linear import LAYERS, PACKED, packed_linear
from pdcache.sglang_cpu.prefill_step import prefill_step
from pdcache.sglang_cpu.targets import Target

LLAMA = "sglang.srt.models.llama"
FORWARD = Target(LLAMA, "LlamaModel", "forward")
MODEL = Target(LLAMA, "LlamaModel")
LAYER = Target(LLAMA, "LlamaDecoderLayer")
NORM = Target("sglang.srt.layers.layernorm", "RMSNorm")
ROTATE = Target("sglang.srt.layers.rotary_embedding.base", "RotaryEmbedding", "forward_native")
PARALLEL = Target("sglang.srt.runtime_context", "get_parallel")
BACKEND = Target("sglang.srt.model_executor.forward_context", "get_attn_backend")

PLAIN = "pdcache_plain_layers"


@dataclass(frozen=True)
class Layer:
    """SGLang's modules of one layer; their weights are read at every step, for they may change."""

    attention_norm: Any
    qkv: Any
    attention: Any
    output: Any
    mlp_norm: Any
    gate_up: Any
    down: Any

    @property
    def linears(self) -> tuple[Any, ...]:
        return self.qkv, self.output, self.gate_up, self.down


def install() -> None:
    """Replace the forward step of SGLang's `LlamaModel` where the model is a plain one."""
    original = FORWARD.get()
    model_class, parallel, backend = MODEL.get(), PARALLEL.get(), BACKEND.get()
    for target in (LAYER, NORM, ROTATE):
        target.get()

    def forward(
        self: Any,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: Any,
        input_embeds: torch.Tensor | None = None,
        pp_proxy_tensors: Any = None,
    ) -> Any:
        layers = self.__dict__.get(PLAIN)
        if layers is None:
            alone = parallel().tp_size == 1 and parallel().pp_group.world_size == 1
            layers = plain_layers(self) if type(self) is model_class and alone else ()
            self.__dict__[PLAIN] = layers
        if not layers or self.layers_to_capture or not positions.numel():
            return original(
                self, input_ids, positions, forward_batch, input_embeds, pp_proxy_tensors
            )
        hidden = self.embed_tokens(input_ids) if input_embeds is None else input_embeds
        # [tokens, dim]: cosines of dim / 2 angles, then their sines.
        angles = self.layers[0].self_attn.rotary_emb.cos_sin_cache.index_select(0, positions)
        attention = backend()
        asked = layers, self.norm, hidden, angles, attention, forward_batch.out_cache_loc
        stepped = decode_step(*asked)
        if stepped is None:
            stepped = prefill_step(*asked, last_only=reads_last_only(forward_batch))
        if stepped is not None:
            return stepped
        rotation, residual = rotation_of(angles.to(hidden.dtype)), None
        for layer in layers:
            hidden, residual = _run(
                layer, hidden, residual, rotation, attention.forward, forward_batch
            )
        return _add_norm(self.norm, hidden, residual)[0]

    FORWARD.set(forward)


def plain_layers(model: Any) -> tuple[Layer, ...]:
    """The layers of a `LlamaModel` on one rank, or nothing if any of them is not a plain one.

    Plain are packed weights (`pdcache.sglang_cpu.linear`) without bias or LoRA, RMSNorm over the
    whole hidden state, and one rotary embedding of the halves of whole heads.
    """
    rotary = model.layers[0].self_attn.rotary_emb
    rotates_plainly = (
        type(rotary).forward_native is ROTATE.get()
        and rotary.is_neox_style
        and rotary.rotary_dim == rotary.head_size
        and not hasattr(rotary, "sin_cos_cache")
    )
    if not rotates_plainly or not _plain_norm(model.norm):
        return ()
    layers = tuple(map(_layer, model.layers))
    for module, layer in zip(model.layers, layers, strict=True):
        if type(module) is not LAYER.get() or module.self_attn.rotary_emb is not rotary:
            return ()
        if not (_plain_norm(layer.attention_norm) and _plain_norm(layer.mlp_norm)):
            return ()
        if not all(_plain_linear(linear) for linear in layer.linears):
            return ()
    return layers


def reads_last_only(forward_batch: Any) -> bool:
    """Whether of a step's result only the last token of each request is read.

    So SGLang 0.5.23 does (layers/logits_processor.py, `_get_pruned_states`) with a plain step of
    new tokens unless log probabilities of the prompt, scores at some of its tokens, or hidden
    states are asked for; its pooler of Llamas reads the same (models/llama.py).
    """
    return (
        forward_batch.forward_mode.name == "EXTEND"
        and not forward_batch.return_logprob
        and not forward_batch.capture_hidden_mode.need_capture()
        and forward_batch.token_indices_to_pool is None
        and forward_batch.multi_item_delimiter_indices is None
    )


def rotation_of(angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors that rotate heads, [tokens, 1, 2, dim / 2] each, for `rotate`.

    `angles` are rows of SGLang's `cos_sin_cache`: cosines of dim / 2 angles, then their sines.
    """
    cos, sin = angles.chunk(2, dim=-1)
    return torch.stack((cos, cos), 1).unsqueeze(1), torch.stack((-sin, sin), 1).unsqueeze(1)


def rotate(heads: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """[tokens, heads, dim] with a head's halves x, y made x cos - y sin, y cos + x sin."""
    halves = heads.unflatten(-1, (2, -1))
    cos, sin = rotation
    return (halves * cos).addcmul_(halves.flip(2), sin).flatten(2)


def _run(
    layer: Layer,
    hidden: torch.Tensor,
    residual: torch.Tensor | None,
    rotation: tuple[torch.Tensor, torch.Tensor],
    attend: Any,
    forward_batch: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer: [tokens, hidden size] and the residual to add, to the same of the next layer."""
    hidden, residual = _add_norm(layer.attention_norm, hidden, residual)
    attention = layer.attention
    heads, kv_heads, dim = attention.tp_q_head_num, attention.tp_k_head_num, attention.head_dim
    qkv = _linear(layer.qkv, hidden).unflatten(-1, (-1, dim))
    turned = rotate(qkv[:, : heads + kv_heads], rotation)
    query, key = turned[:, :heads], turned[:, heads:]
    attended = attend(query, key, qkv[:, heads + kv_heads :], attention, forward_batch)
    hidden, residual = _add_norm(layer.mlp_norm, _linear(layer.output, attended), residual)
    gate, up = _linear(layer.gate_up, hidden).chunk(2, dim=-1)
    return _linear(layer.down, silu(gate).mul_(up)), residual


def _add_norm(
    norm: Any, hidden: torch.Tensor, residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The normalized sum, and the sum."""
    if hidden.dtype != torch.float32:
        # SGLang adds and normalizes in float32 and rounds once, which two torch calls do not.
        result = norm.forward_native(hidden, residual)
        return (result, hidden) if residual is None else result
    if residual is not None:
        hidden = hidden + residual
    return rms_norm(hidden, (hidden.shape[-1],), norm.weight, norm.variance_epsilon), hidden


def _linear(module: Any, rows: torch.Tensor) -> torch.Tensor:
    return packed_linear(rows, module.__dict__[PACKED])


def _layer(module: Any) -> Layer:
    attention, mlp = module.self_attn, module.mlp
    return Layer(
        module.input_layernorm,
        attention.qkv_proj,
        attention.attn,
        attention.o_proj,
        module.post_attention_layernorm,
        mlp.gate_up_proj,
        mlp.down_proj,
    )


def _plain_norm(norm: Any) -> bool:
    return (
        type(norm) is NORM.get()
        and norm.variance_size_override is None
        and norm.override_orig_dtype is None
        and not norm.cast_x_before_out_mul
        and not norm.fp32_residual
    )


def _plain_linear(linear: Any) -> bool:
    kinds = [target.get() for target in LAYERS]
    return type(linear) in kinds and PACKED in linear.__dict__ and linear.bias is None
