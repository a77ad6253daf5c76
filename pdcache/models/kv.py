"""What the attention layers of a model keep of a token, from its config.json.

As SGLang 0.5.23 sizes its pools (`configs/model_config.py`, `mem_cache/kv_cache_configurator.py`).
Beyond MHA, GQA and MLA with sliding windows nothing is told apart: a layer with linear attention
counts in full, and the index keys of sparse MLA (`index_topk`) do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdcache.topology.facts import LayerKv

# Of `is_hybrid_swa_model` in configs/model_config.py those whose windows the config spells out
# and whose pool nothing in `arg_groups/` takes away (as it does for Gemma 2 and 3, Exaone, Olmo).
_WINDOW_POOLS = {"GptOssForCausalLM", "MiMoV2ForCausalLM", "MiMoV2FlashForCausalLM"}


def has_window_pool(architecture: str) -> bool:
    """Whether SGLang frees what has left the window of such a model's window layers."""
    return architecture in _WINDOW_POOLS


def kv_layers(config: Mapping[str, Any]) -> tuple[LayerKv, ...]:
    """Every layer of the model, in order; `config` is that of the language model.

    Raises:
        KeyError, TypeError, ValueError: a number is missing or is none.
    """
    windows = _windows(config)
    if rank := config.get("kv_lora_rank"):
        values = int(rank) + int(config["qk_rope_head_dim"])
        return tuple(LayerKv(1, values, shared=True, window=window) for window in windows)
    full, windowed = _full(config), _windowed(config)
    return tuple(LayerKv(*(windowed if window else full), window=window) for window in windows)


def _full(config: Mapping[str, Any]) -> tuple[int, int]:
    """KV heads of a layer, and the numbers that one of them keeps of a token."""
    heads = int(config["num_attention_heads"])
    key = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    value = int(config.get("v_head_dim") or key)
    return int(config.get("num_key_value_heads") or heads), key + value


def _windowed(config: Mapping[str, Any]) -> tuple[int, int]:
    """The same for a layer with a window: MiMo-V2 gives those heads of their own."""
    if not (heads := config.get("swa_num_key_value_heads")):
        return _full(config)
    key = int(config.get("swa_head_dim") or config["head_dim"])
    return int(heads), key + int(config.get("swa_v_head_dim") or key)


def _windows(config: Mapping[str, Any]) -> list[int]:
    """For every layer the last tokens that it attends to; 0 where it attends to all."""
    layers = int(config["num_hidden_layers"])
    window = int(config.get("sliding_window") or config.get("sliding_window_size") or 0)
    if not window or config.get("use_sliding_window") is False:
        return [0] * layers
    slides = _slides(config, layers)
    return [window if layer < len(slides) and slides[layer] else 0 for layer in range(layers)]


def _slides(config: Mapping[str, Any], layers: int) -> list[bool]:
    if kinds := config.get("layer_types"):
        return [kind == "sliding_attention" for kind in kinds]
    if pattern := config.get("hybrid_layer_pattern"):
        return [kind == 1 for kind in pattern]
    # Gemma 3: every n-th layer attends to all tokens.
    if isinstance(every := config.get("sliding_window_pattern"), int) and every > 0:
        return [(layer + 1) % every != 0 for layer in range(layers)]
    return []
