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
from pdcache.models.parameters import count_parameters
from pdcache.models.reference import Kind, kind_of

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1}


@dataclass(frozen=True)
class ModelFacts:
    """Facts of one model.

    Attributes:
        architecture: first entry of `architectures`.
        max_positions: longest context, in tokens; 0 when the config does not say.
        dtype: of the weights as stored, e.g. "bfloat16".
        parameters: their number, reckoned from the config (an estimate but for Llama).
        weight_bytes: size of the weights as stored: of the files when they are there, else
            parameters times the size of `dtype`.
        mla_rank: values kept per token and layer under MLA (kv_lora_rank + qk_rope_head_dim),
            or None without MLA.
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
    mla_rank: int | None = None

    @property
    def is_mla(self) -> bool:
        """Whether one latent vector per token serves all heads (the KV is alike on every rank)."""
        return self.mla_rank is not None

    @property
    def kv_values_per_token(self) -> int:
        """Numbers kept per token over all layers, K and V together.

        An upper bound where some layers keep less (sliding window, linear attention).
        """
        return self.layers * (self.mla_rank or 2 * self.kv_heads * self.head_dim)

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """Bytes of KV per token on all ranks together, at `itemsize` bytes a number."""
        return self.kv_values_per_token * itemsize


def model_facts(reference: str) -> ModelFacts | None:
    """Facts of a built-in model (without making it), a folder, or a hub model on this machine.

    Returns:
        None for a hub id that is not in the local Hugging Face cache.

    Raises:
        ModelError: no such model, or its config.json cannot be read or lacks what is needed.
    """
    kind = kind_of(reference)
    if kind is Kind.BUILTIN:
        return facts_of(BUILTIN_MODELS[reference].config, where=reference)
    folder = Path(reference).expanduser() if kind is Kind.FOLDER else hub_snapshot(reference)
    if folder is None:
        return None
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
    text = {**config, **inner} if isinstance(inner, dict) else config
    try:
        heads = int(text["num_attention_heads"])
        hidden = int(text["hidden_size"])
        rank = text.get("kv_lora_rank")
        dtype = str(text.get("dtype") or text.get("torch_dtype") or "bfloat16")
        parameters = count_parameters(text)
        return ModelFacts(
            architecture=str((config.get("architectures") or ["unknown"])[0]),
            layers=int(text["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            head_dim=int(text.get("head_dim") or hidden // heads),
            vocab=int(text["vocab_size"]),
            max_positions=int(text.get("max_position_embeddings") or 0),
            dtype=dtype,
            parameters=parameters,
            weight_bytes=weight_bytes or parameters * _DTYPE_BYTES.get(dtype, 2),
            mla_rank=int(rank) + int(text["qk_rope_head_dim"]) if rank else None,
        )
    except KeyError as error:
        raise ModelError(f"the model's configuration lacks {error}.", where=where) from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"the model's configuration is unusable: {error}.", where=where) from error
