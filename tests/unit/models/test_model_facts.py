"""Facts of models, against numbers known from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pdcache.errors import ModelError
from pdcache.models import model_facts, resolve_model

LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}

DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "first_k_dense_replace": 3,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "torch_dtype": "bfloat16",
}


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PDCACHE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE", raising=False)


def a_folder_with(tmp_path: Path, config: Any) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_smollm2_is_known_without_being_made(tmp_path: Path) -> None:
    facts = model_facts("smollm2-135m")
    assert facts is not None
    assert (facts.layers, facts.heads, facts.kv_heads, facts.head_dim) == (30, 9, 3, 64)
    assert facts.kv_bytes_per_token(2) == 23_040
    assert facts.parameters == 134_515_008
    assert facts.weight_bytes == 269_030_016
    assert not (tmp_path / "cache").exists()


def test_a_made_model_says_of_itself_what_its_name_says() -> None:
    by_name, by_folder = model_facts("tiny-random"), model_facts(resolve_model("tiny-random"))
    assert by_name is not None
    assert by_folder is not None
    assert by_name.kv_values_per_token == by_folder.kv_values_per_token == 2 * 2 * 2 * 16
    header = by_folder.weight_bytes - by_name.weight_bytes
    assert 0 < header < 4096


def test_grouped_query_attention_keeps_its_kv_heads_only(tmp_path: Path) -> None:
    facts = model_facts(a_folder_with(tmp_path, LLAMA_3_8B))
    assert facts is not None
    assert facts.kv_bytes_per_token(2) == 131_072
    assert facts.head_dim == 128
    assert facts.parameters == 8_030_261_248
    assert facts.weight_bytes == 2 * 8_030_261_248
    assert not facts.is_mla


def test_multi_head_attention_without_kv_heads_uses_all_heads(tmp_path: Path) -> None:
    config = {key: value for key, value in LLAMA_3_8B.items() if key != "num_key_value_heads"}
    facts = model_facts(a_folder_with(tmp_path, config))
    assert facts is not None
    assert facts.kv_bytes_per_token(2) == 4 * 131_072


def test_mla_keeps_one_latent_vector_per_layer(tmp_path: Path) -> None:
    facts = model_facts(a_folder_with(tmp_path, DEEPSEEK_V3))
    assert facts is not None
    assert facts.is_mla
    assert facts.kv_bytes_per_token(2) == 61 * (512 + 64) * 2
    assert facts.parameters == pytest.approx(671e9, rel=0.005)


def test_a_multi_modal_model_is_read_through_its_text_config(tmp_path: Path) -> None:
    config = {"architectures": ["SomeVisionModel"], "text_config": LLAMA_3_8B}
    facts = model_facts(a_folder_with(tmp_path, config))
    assert facts is not None
    assert facts.architecture == "SomeVisionModel"
    assert facts.kv_bytes_per_token(2) == 131_072


def test_the_newer_name_of_the_dtype_is_read(tmp_path: Path) -> None:
    config = {**LLAMA_3_8B, "dtype": "float32"}
    del config["torch_dtype"]
    facts = model_facts(a_folder_with(tmp_path, config))
    assert facts is not None
    assert (facts.dtype, facts.weight_bytes) == ("float32", 4 * 8_030_261_248)


def test_weights_on_disk_are_measured(tmp_path: Path) -> None:
    folder = a_folder_with(tmp_path, LLAMA_3_8B)
    (Path(folder) / "a.safetensors").write_bytes(b"x" * 100)
    (Path(folder) / "b.safetensors").write_bytes(b"x" * 23)
    facts = model_facts(folder)
    assert facts is not None
    assert facts.weight_bytes == 123


def test_a_hub_model_is_read_from_the_local_cache(tmp_path: Path) -> None:
    assert model_facts("meta/llama") is None
    repo = tmp_path / "hf" / "hub" / "models--meta--llama"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc123")
    (repo / "snapshots" / "abc123").mkdir(parents=True)
    (repo / "snapshots" / "abc123" / "config.json").write_text(json.dumps(LLAMA_3_8B))
    facts = model_facts("meta/llama")
    assert facts is not None
    assert facts.layers == 32


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "lacks 'num_attention_heads'"),
        ({**LLAMA_3_8B, "num_hidden_layers": "many"}, "unusable"),
        ({**LLAMA_3_8B, "num_attention_heads": None}, "unusable"),
        ([1, 2], "not a JSON object"),
    ],
)
def test_an_unusable_config_is_an_error_with_its_place(
    tmp_path: Path, config: Any, said: str
) -> None:
    folder = a_folder_with(tmp_path, config)
    with pytest.raises(ModelError, match=said) as caught:
        model_facts(folder)
    assert caught.value.where == f"{folder}/config.json"
