"""How many parameters a decoder has, reckoned from its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def count_parameters(config: Mapping[str, Any]) -> int:
    """Parameters of a Llama-like decoder (MHA, GQA or MLA; dense or mixture of experts).

    Exact for Llama. For others an estimate: biases, routers and extra norms are left out, as are
    multi-token-prediction layers and vision towers.
    """
    hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
    embeddings = int(config["vocab_size"]) * hidden
    if not config.get("tie_word_embeddings", False):
        embeddings *= 2
    norms = (2 * layers + 1) * hidden
    return embeddings + norms + layers * _attention(config, hidden) + _all_mlps(config, hidden)


def count_experts(config: Mapping[str, Any]) -> int:
    """Parameters of all routed experts together; 0 for a dense model."""
    dense_layers = int(config.get("first_k_dense_replace") or 0)
    layers = int(config["num_hidden_layers"]) - dense_layers
    return layers * _experts(config) * _expert(config)


def _attention(config: Mapping[str, Any], hidden: int) -> int:
    heads = int(config["num_attention_heads"])
    if kv_rank := config.get("kv_lora_rank"):
        nope, rope = int(config["qk_nope_head_dim"]), int(config["qk_rope_head_dim"])
        query_out = heads * (nope + rope)
        q_rank = config.get("q_lora_rank")
        query = q_rank * (hidden + query_out) if q_rank else hidden * query_out
        value = int(config["v_head_dim"])
        kv = hidden * (kv_rank + rope) + kv_rank * heads * (nope + value)
        return int(query + kv + heads * value * hidden)
    head_dim = int(config.get("head_dim") or hidden // heads)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    return 2 * hidden * head_dim * (heads + kv_heads)


def _all_mlps(config: Mapping[str, Any], hidden: int) -> int:
    layers = int(config["num_hidden_layers"])
    dense = 3 * hidden * int(config.get("intermediate_size") or 4 * hidden)
    if not _experts(config):
        return layers * dense
    dense_layers = int(config.get("first_k_dense_replace") or 0)
    shared = int(config.get("n_shared_experts") or 0) * _expert(config)
    return dense_layers * dense + (layers - dense_layers) * shared + count_experts(config)


def _experts(config: Mapping[str, Any]) -> int:
    keys = ("n_routed_experts", "num_local_experts", "num_experts")
    return next((int(config[key]) for key in keys if config.get(key)), 0)


def _expert(config: Mapping[str, Any]) -> int:
    inner = config.get("moe_intermediate_size") or config.get("intermediate_size")
    return 3 * int(config["hidden_size"]) * int(inner or 0)
