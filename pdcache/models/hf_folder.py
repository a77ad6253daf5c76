"""Writes the files of a model folder in Hugging Face layout, with neither torch nor transformers.

safetensors' numpy interface has no bfloat16, so the file is written here: eight bytes of header
length, a JSON header, the tensors one after another (the format's README, "Format").
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    from tokenizers import Tokenizer

_ITEM_BYTES = {"BF16": 2, "F32": 4}


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json and the generation_config.json that goes with it."""
    _write_json(folder / "config.json", config)
    special = ("bos_token_id", "eos_token_id", "pad_token_id")
    _write_json(folder / "generation_config.json", {key: config[key] for key in special})


def write_tokenizer(
    folder: Path,
    tokenizer: Tokenizer,
    config: Mapping[str, Any],
    chat_template: str,
    *,
    unknown_token: str | None = None,
) -> None:
    """Write tokenizer.json and tokenizer_config.json; the special tokens are those of `config`."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template,
    }
    for token in ("bos_token", "eos_token", "pad_token"):
        settings[token] = tokenizer.id_to_token(config[f"{token}_id"])
    if unknown_token is not None:
        settings["unk_token"] = unknown_token
    _write_json(folder / "tokenizer_config.json", settings)


def write_weights(
    path: Path,
    dtype: str,
    shapes: Mapping[str, tuple[int, ...]],
    arrays: Iterable[numpy.ndarray[Any, Any]],
) -> None:
    """Write one safetensors file, holding one tensor in memory at a time.

    Args:
        dtype: "BF16" (arrays hold the 16 bits as uint16) or "F32".
        shapes: every tensor's shape, in the order of the file.
        arrays: the tensors, in the order of `shapes`.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + _ITEM_BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for (name, shape), array in zip(shapes.items(), arrays, strict=True):
            if array.shape != shape or array.dtype.itemsize != _ITEM_BYTES[dtype]:
                raise ValueError(f"{name}: {array.dtype} {array.shape}, not {dtype} {shape}")
            file.write(array.tobytes())


def llama_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama model's tensors, as transformers' LlamaForCausalLM has them."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden)
    }
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.self_attn.q_proj.weight"] = (q, hidden)
        shapes[f"{layer}.self_attn.k_proj.weight"] = (kv, hidden)
        shapes[f"{layer}.self_attn.v_proj.weight"] = (kv, hidden)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (hidden, q)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.mlp.gate_proj.weight"] = (inner, hidden)
        shapes[f"{layer}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, inner)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
