"""KV of well-known models against published figures, without network, and on ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pdcache.checks.budget import token_bytes
from pdcache.errors import ModelError
from pdcache.models.facts import ModelFacts, facts_of, model_facts
from pdcache.models.known_models import known_config, known_ids
from pdcache.models.view import model_view
from pdcache.topology import parse_topology
from pdcache.topology.facts import Facts, LayerKv, ModelView, rank_kv_values
from pdcache.topology.schema import Role
from pdcache.topology.settings import role_settings

R1 = "deepseek-ai/DeepSeek-R1"
QWEN_235B = "Qwen/Qwen3-235B-A22B-Instruct-2507"
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
GPT_OSS = "openai/gpt-oss-120b"
GEMMA = "google/gemma-3-27b-it"


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PDCACHE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def facts(reference: str) -> ModelFacts:
    found = model_facts(reference)
    assert found is not None
    return found


def a_hub_snapshot(tmp_path: Path, hub_id: str, config: dict[str, Any]) -> Path:
    repo = tmp_path / "hub" / f"models--{hub_id.replace('/', '--')}"
    folder = repo / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("hub_id", "token_bytes"),
    [
        (R1, 70_272),  # 61 layers x (512 + 64)
        ("deepseek-ai/DeepSeek-V3.1", 70_272),
        ("moonshotai/Kimi-K2-Instruct", 70_272),
        (LLAMA_8B, 131_072),  # 32 x 2 x 8 x 128
        ("meta-llama/Llama-3.1-70B-Instruct", 327_680),
        (QWEN_235B, 192_512),  # 94 x 2 x 4 x 128
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct", 253_952),
        ("Qwen/Qwen3-32B", 262_144),
        ("Qwen/Qwen3-14B", 163_840),
        ("Qwen/Qwen3-8B", 147_456),
        ("Qwen/Qwen2.5-7B-Instruct", 57_344),
        ("zai-org/GLM-4.5", 376_832),
        (GPT_OSS, 73_728),  # 36 x 2 x 8 x 64, windows in full
        ("openai/gpt-oss-20b", 49_152),
        (GEMMA, 507_904),  # 62 x 2 x 16 x 128, windows in full
    ],
)
def test_kv_bytes_of_a_token_in_bfloat16(hub_id: str, token_bytes: int) -> None:
    assert facts(hub_id).kv_bytes_per_token(2) == token_bytes


@pytest.mark.parametrize(
    ("hub_id", "billions"),
    [
        (R1, 671),
        ("moonshotai/Kimi-K2-Instruct", 1026),
        (LLAMA_8B, 8.03),
        ("meta-llama/Llama-3.1-70B-Instruct", 70.6),
        (QWEN_235B, 235),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct", 480),
        ("Qwen/Qwen3-32B", 32.8),
        ("Qwen/Qwen3-14B", 14.8),
        ("Qwen/Qwen3-8B", 8.19),
        ("Qwen/Qwen2.5-7B-Instruct", 7.62),
        ("zai-org/GLM-4.5", 355),
        (GPT_OSS, 116.8),
        ("openai/gpt-oss-20b", 20.9),
        (GEMMA, 27.0),
    ],
)
def test_parameters_are_those_on_the_model_card(hub_id: str, billions: float) -> None:
    assert facts(hub_id).parameters == pytest.approx(billions * 1e9, rel=0.01)


@pytest.mark.parametrize(
    ("hub_id", "gigabytes"),
    [(LLAMA_8B, 16.1), (R1, 671), (GPT_OSS, 65.2), ("openai/gpt-oss-20b", 13.8)],
)
def test_quantized_weights_are_reckoned_at_their_size(hub_id: str, gigabytes: float) -> None:
    assert facts(hub_id).weight_bytes == pytest.approx(gigabytes * 1e9, rel=0.01)


@pytest.mark.parametrize("hub_id", known_ids())
def test_every_file_makes_facts_and_says_the_longest_context(hub_id: str) -> None:
    found = facts(hub_id)
    assert len(found.kv_layers) == found.layers
    assert found.max_positions >= 32_768
    assert found.parameters > 1e9


def test_a_hub_id_is_known_in_any_case_and_only_as_a_whole() -> None:
    assert known_config("DEEPSEEK-ai/deepseek-r1") == known_config(R1)
    assert known_config("DeepSeek-R1") is None
    assert known_config(f"/models/{R1}") is None
    with pytest.raises(ModelError, match="no such model folder"):
        model_facts(f"/models/{R1}")


def test_a_model_in_the_local_cache_speaks_for_itself(tmp_path: Path) -> None:
    config = {**(known_config(LLAMA_8B) or {}), "num_hidden_layers": 3}
    a_hub_snapshot(tmp_path, LLAMA_8B, config)
    assert facts(LLAMA_8B).layers == 3


def test_the_view_of_a_known_model_has_its_sizes_and_its_id_for_digests() -> None:
    view = model_view(R1)
    assert view.problem is None
    assert (view.known, view.is_mla, view.max_positions) == (True, True, 163_840)
    assert view.kv_values_per_token == 35_136
    assert view.path == view.weights_digest == view.tokenizer_digest == R1


def test_the_view_of_a_model_on_this_machine_is_not_from_the_list(tmp_path: Path) -> None:
    folder = a_hub_snapshot(tmp_path, LLAMA_8B, known_config(LLAMA_8B) or {})
    (folder / "model.safetensors").write_bytes(bytes(100))
    (folder / "tokenizer.json").write_text("{}")
    view = model_view(LLAMA_8B)
    assert view.problem is None
    assert not view.known
    assert view.weights_digest != LLAMA_8B


def test_an_unknown_hub_model_has_no_sizes() -> None:
    view = model_view("some-org/some-model")
    assert (view.problem, view.known, view.kv_layers) == (None, False, ())
    assert view.rank_kv_values(8) == 0


@pytest.mark.parametrize(("tp", "heads"), [(1, 4), (2, 2), (4, 1), (8, 1), (16, 1)])
def test_with_more_ranks_than_heads_every_rank_keeps_a_head(tp: int, heads: int) -> None:
    assert facts(QWEN_235B).kv_bytes_per_token_on_rank(2, tp) == 94 * 2 * heads * 128 * 2
    assert model_view(QWEN_235B).rank_kv_values(tp) == 94 * 2 * heads * 128


@pytest.mark.parametrize(("tp", "heads"), [(2, 2), (4, 1), (8, 1)])
def test_the_budget_of_a_rank_counts_copied_heads(tp: int, heads: int) -> None:
    text = f"{{name: t, mode: full_offload, model: {{path: {QWEN_235B}, dtype: bfloat16}}}}"
    topology = parse_topology(text, source="t.yaml", overrides=[f"prefill.tp={tp}"])
    world = Facts(models={QWEN_235B: model_view(QWEN_235B)})
    settings = role_settings(topology, Role.PREFILL)
    assert token_bytes(topology, world, Role.PREFILL, settings) == 94 * 2 * heads * 128 * 2


@pytest.mark.parametrize("tp", [1, 8, 16])
def test_a_latent_vector_is_whole_on_every_rank(tp: int) -> None:
    assert model_view(R1).rank_kv_values(tp) == 35_136


@pytest.mark.parametrize(("pp", "layers"), [(1, 61), (2, 31), (4, 16), (61, 1), (64, 1)])
def test_the_largest_pipeline_stage_counts(pp: int, layers: int) -> None:
    assert model_view(R1).rank_kv_values(8, pp) == layers * 576


def test_the_last_stages_are_the_longer_ones() -> None:
    layers = [LayerKv(1, values) for values in (50, 50, 1, 1, 1, 1, 90)]
    assert rank_kv_values(layers, 1, pp=3) == 100  # 50 50 | 1 1 | 1 1 90
    assert rank_kv_values(layers, 1, pp=2) == 101  # 50 50 1 | 1 1 1 90


def test_heads_that_the_ranks_do_not_divide_are_shared_evenly() -> None:
    assert LayerKv(3, 128).rank_values(2) == 192


def test_a_view_that_has_a_total_only_is_shared_evenly() -> None:
    assert ModelView("m", kv_values_per_token=1000).rank_kv_values(4, 2) == 125
    assert ModelView("m", kv_values_per_token=1000, is_mla=True).rank_kv_values(4, 2) == 500


def test_a_window_bounds_what_half_of_gpt_oss_keeps() -> None:
    found = facts(GPT_OSS)
    assert (found.full_layers, found.window_layers, found.window_tokens) == (18, 18, 128)
    layer = 2 * 8 * 64
    assert found.kv_bytes(100, 2) == 100 * found.kv_bytes_per_token(2)
    assert found.kv_bytes(100_000, 2) == 18 * layer * (100_000 + 128) * 2


def test_gemma_3_attends_to_windows_and_keeps_everything() -> None:
    found = facts(GEMMA)
    assert (found.full_layers, found.window_layers, found.window_tokens) == (10, 52, 1024)
    assert [layer.window for layer in found.kv_layers[4:7]] == [1024, 0, 1024]
    assert found.kv_bytes(100_000, 2) == 100_000 * found.kv_bytes_per_token(2)


def test_a_window_that_is_switched_off_is_none() -> None:
    qwen = known_config("Qwen/Qwen3-8B") or {}
    off = qwen | {"sliding_window": 4096, "layer_types": ["sliding_attention"] * 36}
    assert facts_of(off, where="x").window_layers == 0
    assert facts_of(off | {"use_sliding_window": True}, where="x").window_layers == 36


def test_layers_past_the_list_of_their_types_attend_to_all() -> None:
    config = (known_config("openai/gpt-oss-20b") or {}) | {"layer_types": ["sliding_attention"] * 3}
    assert facts_of(config, where="x").window_layers == 3


def test_heads_of_window_layers_can_be_others() -> None:
    config = {
        **(known_config("Qwen/Qwen3-8B") or {}),
        **{"architectures": ["MiMoV2FlashForCausalLM"], "num_hidden_layers": 3},
        **{"num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128},
        **{"swa_num_key_value_heads": 8, "swa_head_dim": 192, "swa_v_head_dim": 128},
        **{"use_sliding_window": None, "sliding_window": 128, "hybrid_layer_pattern": [0, 1, 1]},
    }
    found = facts_of(config, where="x")
    full, windowed = 4 * (192 + 128), 8 * (192 + 128)
    assert found.kv_values_per_token == full + 2 * windowed
    assert found.kv_bytes(1000, 1) == 1000 * full + 128 * 2 * windowed
