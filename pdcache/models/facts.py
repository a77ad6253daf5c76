"""What a model is, read from its config.json: the numbers that KV and memory budgets need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdcache.errors import ModelError
from pdcache.models.builtin import BUILTIN_MODELS
from pdcache.models.hub import hub_snapshot
from pdcache.models.known_models import known_config
from pdcache.models.kv import has_window_pool, kv_layers
from pdcache.models.parameters import count_experts, count_parameters
from pdcache.models.reference import Kind, kind_of
from pdcache.topology.facts import LayerKv, rank_kv_values

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1}
_MXFP4_BYTES = (4 + 8 / 32) / 8  # 4 bits, and a scale of 8 bits for 32 numbers
# What configs of this `model_type` leave out (transformers 5.19, Gemma3TextConfig).
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma3_text": {
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window_pattern": 6,
        "tie_word_embeddings": True,
    }
}


@dataclass(frozen=True)
class ModelFacts:
    """Facts of one model.

    Attributes:
        architecture: first entry of `architectures`.
        max_positions: longest context, in tokens; 0 when the config does not say.
        dtype: of the weights as stored, e.g. "bfloat16".
        parameters: their number, reckoned from the config (an estimate but for Llama).
        weight_bytes: size of the weights as stored: of the files when they are there, else
            reckoned from `parameters` (an estimate where the weights are quantized).
        kv_layers: what each attention layer keeps of a token, in order.
        mla_rank: values kept per token and layer under MLA (kv_lora_rank + qk_rope_head_dim),
            or None without MLA.
        window_pool: SGLang 0.5.23 frees what has left the window of a window layer. Where it does
            not (Gemma 3) such a layer keeps all tokens, though it attends to few.
    """

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int
    dtype: str
    parameters: int
    weight_bytes: int
    kv_layers: tuple[LayerKv, ...]
    mla_rank: int | None = None
    window_pool: bool = False

    @property
    def is_mla(self) -> bool:
        """Whether one latent vector per token serves all heads (the KV is alike on every rank)."""
        return self.mla_rank is not None

    @property
    def kv_values_per_token(self) -> int:
        """Numbers kept per token over all layers, K and V together.

        An upper bound where some layers keep less (sliding window, linear attention).
        """
        return sum(layer.values for layer in self.kv_layers)

    @property
    def full_layers(self) -> int:
        """Layers that attend to all tokens."""
        return self.layers - self.window_layers

    @property
    def window_layers(self) -> int:
        """Layers that attend to the last `window_tokens` only."""
        return sum(layer.window > 0 for layer in self.kv_layers)

    @property
    def window_tokens(self) -> int:
        """The sliding window; 0 without one."""
        return max((layer.window for layer in self.kv_layers), default=0)

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """Bytes of KV per token on all ranks together, at `itemsize` bytes a number."""
        return self.kv_values_per_token * itemsize

    def kv_bytes_per_token_on_rank(self, itemsize: int, tp: int, pp: int = 1) -> int:
        """Bytes of KV per token on one of `tp` ranks, on the largest of `pp` pipeline stages."""
        return rank_kv_values(self.kv_layers, tp, pp) * itemsize

    def kv_bytes(self, tokens: int, itemsize: int) -> int:
        """Bytes that SGLang must keep to go on from a context of `tokens`, all ranks together.

        Copies of a head or latent vector count once; windows are not rounded up to pages.
        """

        def kept(layer: LayerKv) -> int:
            return min(tokens, layer.window) if self.window_pool and layer.window else tokens

        return sum(layer.values * kept(layer) for layer in self.kv_layers) * itemsize


def model_facts(reference: str) -> ModelFacts | None:
    """Facts of a built-in model (without making it), a folder, or a hub model.

    A hub model is read from the local Hugging Face cache, else from the configurations that
    pdcache ships (`known_models`).

    Returns:
        None for a hub id that is in neither.

    Raises:
        ModelError: no such model, or its config.json cannot be read or lacks what is needed.
    """
    kind = kind_of(reference)
    if kind is Kind.BUILTIN:
        return facts_of(BUILTIN_MODELS[reference].config, where=reference)
    folder = Path(reference).expanduser() if kind is Kind.FOLDER else hub_snapshot(reference)
    if folder is None:
        config = known_config(reference)
        return None if config is None else facts_of(config, where=reference)
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    return facts_of(read_config(folder), where=str(folder / "config.json"), weight_bytes=sum(sizes))


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        ModelError: it is not there or is not a JSON object.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot read the model's configuration: {error}.",
            where=str(path),
            remedy="Give a folder in Hugging Face layout.",
        ) from error
    if not isinstance(content, dict):
        raise ModelError("the model's configuration is not a JSON object.", where=str(path))
    return content


def facts_of(config: Mapping[str, Any], *, where: str, weight_bytes: int = 0) -> ModelFacts:
    """Facts from the content of a config.json; `weight_bytes` 0 means: reckon them.

    Raises:
        ModelError: `config` lacks a number that is needed or holds something else in its place.
    """
    # Multi-modal models keep the language model's numbers one level down.
    inner = config.get("text_config")
    text = {**config, **inner} if isinstance(inner, dict) else dict(config)
    text = {**_DEFAULTS.get(str(text.get("model_type")), {}), **text}
    try:
        heads = int(text["num_attention_heads"])
        hidden = int(text["hidden_size"])
        rank = text.get("kv_lora_rank")
        dtype = str(text.get("dtype") or text.get("torch_dtype") or "bfloat16")
        parameters = count_parameters(text)
        architecture = str((config.get("architectures") or ["unknown"])[0])
        return ModelFacts(
            architecture=architecture,
            layers=int(text["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            head_dim=int(text.get("head_dim") or hidden // heads),
            vocab=int(text["vocab_size"]),
            max_positions=int(text.get("max_position_embeddings") or 0),
            dtype=dtype,
            parameters=parameters,
            weight_bytes=weight_bytes or _stored_bytes(text, dtype, parameters),
            kv_layers=kv_layers(text),
            mla_rank=int(rank) + int(text["qk_rope_head_dim"]) if rank else None,
            window_pool=has_window_pool(architecture),
        )
    except KeyError as error:
        raise ModelError(f"the model's configuration lacks {error}.", where=where) from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"the model's configuration is unusable: {error}.", where=where) from error


def _stored_bytes(text: Mapping[str, Any], dtype: str, parameters: int) -> int:
    """Size of the weights in the files; of quantized ones without most of their scales."""
    itemsize = _DTYPE_BYTES.get(dtype, 2)
    quantization = text.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method == "fp8":
        return parameters
    if method == "mxfp4":  # gpt-oss: of the experts only
        experts = count_experts(text)
        return (parameters - experts) * itemsize + int(experts * _MXFP4_BYTES)
    return parameters * itemsize
