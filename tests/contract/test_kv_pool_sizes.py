"""Our KV bytes of a token are those of SGLang's own pools, for random small models.

One process of the CPU lane reads each configuration with SGLang's `ModelConfig` and lets SGLang's
own builders make the device pools and the host pools of every layout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from pdcache.models.facts import ModelFacts, facts_of
from pdcache.sglang_cpu import HOST_RESERVE_ENV, pythonpath_folder, worker_environment

# A JSON line in, a JSON line out: [config.json, tp, pp, page size, dtype, layout] -> what SGLang
# makes of it. Bytes of a token are those of the buffers that were allocated, divided by their rows.
ANSWER = """
import json, sys, tempfile, traceback
from pathlib import Path
from types import SimpleNamespace

from sglang.srt.plugins import load_plugins
load_plugins()
import torch
from sglang.srt.arg_groups.model_overrides import gemma2_gemma3
from sglang.srt.configs.model_config import AttentionArch, ModelConfig
from sglang.srt.distributed.utils import get_pp_indices
from sglang.srt.mem_cache import kv_cache_configurator
from sglang.srt.mem_cache.hybrid_cache import hybrid_pool_assembler
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool
from sglang.srt.model_executor.model_runner_components import layer_setup

SIZE, WINDOW_SIZE = 64, 32
# What SGLang's builders ask of the running server.
server = {
    "get_exec": SimpleNamespace(features=SimpleNamespace(enable_memory_saver=False)),
    "get_schedule": SimpleNamespace(prefill_only_disable_kv_cache=False),
    "get_disagg": SimpleNamespace(enable_pdmux=False),
    "get_spec": SimpleNamespace(speculative_algorithm=None),
    "get_parallel": SimpleNamespace(attn_dcp_size=1, dcp_enabled=False),
    "get_memory": SimpleNamespace(hicache_ratio=2.0, hicache_size=0),
    "get_allocator_type": "default",
}
for name, value in server.items():
    for module in (kv_cache_configurator, hybrid_pool_assembler):
        if hasattr(module, name):
            setattr(module, name, lambda value=value: value)

def model_of(config):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        overrides = {}
        if config["model_type"] == "gemma3_text":
            overrides = gemma2_gemma3._gemma2_gemma3_overrides(None, SimpleNamespace(**config))
        return ModelConfig(folder, **overrides)

def pools_of(model, start, end, page_size, dtype):
    near, far = layer_setup._resolve_local_hybrid_swa_layer_ids(
        model_config=model, owned_layers=range(start, end)
    )
    runner = SimpleNamespace(
        model_config=model, kv_cache_dtype=getattr(torch, dtype), kv_cache_dtype_str="auto",
        device="cpu", pool_page_size=page_size, kv_shard_rank=None, post_capture_kv_active=False,
        draft_swa_full_capacity=False, is_hybrid_swa_compress=model.is_hybrid_swa_compress,
        layer_info=layer_setup.ModelLayerInfo(
            start_layer=start, end_layer=end, num_effective_layers=end - start,
            swa_attention_layer_ids=near, full_attention_layer_ids=far,
        ),
    )
    build = kv_cache_configurator.KVCacheConfigurator
    if model.is_hybrid_swa:
        pool = build._build_hybrid_swa_kv_pool(
            runner, full_max_total_num_tokens=SIZE, swa_max_total_num_tokens=WINDOW_SIZE,
            mha_pool_class=MHATokenToKVPool,
        )
        return [pool.full_kv_pool, pool.swa_kv_pool]
    if model.attention_arch == AttentionArch.MLA:
        return [build._build_mla_kv_pool(
            runner, max_total_num_tokens=SIZE, mla_pool_class=MLATokenToKVPool
        )]
    return [build._build_mha_kv_pool(
        runner, max_total_num_tokens=SIZE, mha_pool_class=MHATokenToKVPool
    )]

def token_bytes(total, rows):
    assert total % rows == 0, (total, rows)
    return int(total) // rows

def device_bytes(pool):
    size = pool.get_kv_size_bytes()
    total = sum(size) if isinstance(size, tuple) else size
    return token_bytes(total, pool.size + pool.page_size)

def host_bytes(pool, page_size):
    host = hybrid_pool_assembler.build_kv_host_pool(kv_pool=pool, page_size=page_size)
    buffers = [host.kv_buffer] if isinstance(host.kv_buffer, torch.Tensor) else host.kv_buffer
    own = token_bytes(sum(buffer.nbytes for buffer in buffers), host.size)
    assert own == host.size_per_token, (own, host.size_per_token)
    return own

def answer(config, tp, pp, page_size, dtype, layout):
    model = model_of(config)
    server["get_parallel"].attn_tp_size = tp
    server["get_memory"].hicache_mem_layout = layout
    stages = []
    for rank in range(pp):
        start, end = get_pp_indices(model.num_hidden_layers, rank, pp)
        pools = pools_of(model, start, end, page_size, dtype)
        stages.append([
            [device_bytes(pool) if pool.layer_num else 0 for pool in pools],
            [host_bytes(pool, page_size) if pool.layer_num else 0 for pool in pools],
        ])
    return {"stages": stages, "window": model.sliding_window_size if model.is_hybrid_swa else None}

print("READY", flush=True)
for line in sys.stdin:
    try:
        print(json.dumps(answer(*json.loads(line))), flush=True)
    except Exception:
        print(json.dumps({"error": traceback.format_exc()}), flush=True)
"""

# What --hicache-mem-layout takes, but for page_first_kv_split, which is Ascend's.
SAME_ROWS = ("layer_first", "page_first", "page_first_direct")
MHA_LAYOUTS = (*SAME_ROWS, "page_head")
# Of a model whose K and V differ in width SGLang keeps pages in two layouts only.
UNEVEN_LAYOUTS = ("page_first", "page_first_direct")
DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}
SIZES = {"vocab_size": 128, "max_position_embeddings": 256, "intermediate_size": 32}

Pools = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def sglang_pools() -> Iterator[Pools]:
    """SGLang's own pools, in a process of its own."""
    environment = worker_environment() | {HOST_RESERVE_ENV: "0"}
    with subprocess.Popen(
        [sys.executable, "-c", ANSWER],
        env=os.environ | environment | {"PYTHONPATH": str(pythonpath_folder())},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
    ) as process:  # fmt: skip
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        assert "READY\n" in iter(stdout.readline, "")

        def ask(*question: Any) -> dict[str, Any]:
            stdin.write(json.dumps(question) + "\n")
            stdin.flush()
            answer: dict[str, Any] = json.loads(stdout.readline())
            assert "error" not in answer, answer["error"]
            return answer

        yield ask
        stdin.close()


@some.composite
def ranks(draw: some.DrawFn) -> tuple[int, int, int]:
    """KV heads, and attention and pipeline ranks that SGLang accepts for them."""
    heads, more = draw(some.sampled_from([1, 2, 3, 4, 8])), draw(some.sampled_from([1, 2, 4]))
    fewer = [tp for tp in range(1, heads + 1) if heads % tp == 0]
    return heads, draw(some.sampled_from([*fewer, heads * more])), draw(some.integers(1, 3))


def decoder(architecture: str, kind: str, layers: int, kv_heads: int, **more: Any) -> Any:
    heads = 4 * kv_heads
    return {
        "architectures": [architecture],
        "model_type": kind,
        "hidden_size": 16 * heads,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        **SIZES,
        **more,
    }


def facts(config: Any) -> ModelFacts:
    return facts_of(config, where="config.json")


def assert_same_bytes(answer: dict[str, Any], ours: ModelFacts, *sizes: int) -> None:
    """The largest stage has our bytes, in L1 and in L2; `sizes`: itemsize, tp, pp."""
    for tier in (0, 1):
        largest = max(sum(stage[tier]) for stage in answer["stages"])
        assert largest == ours.kv_bytes_per_token_on_rank(*sizes)


@settings(max_examples=40)
@given(
    split=ranks(),
    layers=some.integers(3, 7),
    head_dim=some.sampled_from([None, 8, 24]),
    kind=some.sampled_from([("LlamaForCausalLM", "llama"), ("Qwen3ForCausalLM", "qwen3")]),
    mha=some.booleans(),
    page_size=some.sampled_from([1, 16]),
    dtype=some.sampled_from(sorted(DTYPES)),
    layout=some.sampled_from(MHA_LAYOUTS),
)
def test_mha_and_gqa(
    sglang_pools: Pools,
    split: tuple[int, int, int],
    layers: int,
    head_dim: int | None,
    kind: tuple[str, str],
    mha: bool,
    page_size: int,
    dtype: str,
    layout: str,
) -> None:
    kv_heads, tp, pp = split
    config = decoder(*kind, layers, kv_heads, head_dim=head_dim or 16)
    if head_dim is None and kind[1] == "llama":
        del config["head_dim"]
    if mha:
        config["num_attention_heads"] = kv_heads
    answer = sglang_pools(config, tp, pp, page_size, dtype, layout)
    assert_same_bytes(answer, facts(config), DTYPES[dtype], tp, pp)


@settings(max_examples=25)
@given(
    rank=some.integers(1, 40),
    rope=some.integers(1, 20),
    layers=some.integers(3, 7),
    tp=some.sampled_from([1, 2, 8]),
    pp=some.integers(1, 3),
    page_size=some.sampled_from([1, 16]),
    dtype=some.sampled_from(sorted(DTYPES)),
    layout=some.sampled_from(SAME_ROWS),
)
def test_mla(
    sglang_pools: Pools,
    rank: int,
    rope: int,
    layers: int,
    tp: int,
    pp: int,
    page_size: int,
    dtype: str,
    layout: str,
) -> None:
    config = decoder(
        "DeepseekV3ForCausalLM",
        "deepseek_v3",
        layers,
        2,
        **{"kv_lora_rank": rank, "qk_rope_head_dim": 2 * rope, "qk_nope_head_dim": 8},
        **{"v_head_dim": 8, "q_lora_rank": 12, "n_routed_experts": 4, "moe_intermediate_size": 16},
    )
    answer = sglang_pools(config, tp, pp, page_size, dtype, layout)
    assert_same_bytes(answer, facts(config), DTYPES[dtype], tp, pp)


@settings(max_examples=25)
@given(
    split=ranks(),
    pattern=some.lists(some.booleans(), min_size=3, max_size=7),
    page_size=some.sampled_from([1, 16]),
    dtype=some.sampled_from(sorted(DTYPES)),
    layout=some.sampled_from(MHA_LAYOUTS),
)
def test_a_sliding_window_in_a_pool_of_its_own(
    sglang_pools: Pools,
    split: tuple[int, int, int],
    pattern: list[bool],
    page_size: int,
    dtype: str,
    layout: str,
) -> None:
    kv_heads, tp, pp = split
    kinds = ["sliding_attention" if slides else "full_attention" for slides in pattern]
    config = decoder(
        "GptOssForCausalLM",
        "gpt_oss",
        len(kinds),
        kv_heads,
        **{"head_dim": 8, "sliding_window": 24, "layer_types": kinds, "num_local_experts": 2},
    )
    answer = sglang_pools(config, tp, pp, page_size, dtype, layout)
    assert_same_bytes(answer, facts(config), DTYPES[dtype], tp, pp)
    assert_same_context(sglang_pools(config, 1, 1, page_size, dtype, layout), config, dtype)


@settings(max_examples=15)
@given(
    heads=some.sampled_from([(1, 2), (4, 8), (4, 2)]),
    widths=some.sampled_from([(24, 16, 24, 16), (24, 16, 12, 8), (8, 8, 8, 4)]),
    pattern=some.lists(some.booleans(), min_size=3, max_size=7),
    tp=some.sampled_from([1, 2, 8]),
    pp=some.integers(1, 3),
    layout=some.sampled_from(UNEVEN_LAYOUTS),
)
def test_values_narrower_than_keys_and_windows_with_heads_of_their_own(
    sglang_pools: Pools,
    heads: tuple[int, int],
    widths: tuple[int, int, int, int],
    pattern: list[bool],
    tp: int,
    pp: int,
    layout: str,
) -> None:
    names = ("head_dim", "v_head_dim", "swa_head_dim", "swa_v_head_dim")
    config = decoder(
        "MiMoV2FlashForCausalLM",
        "mimo_v2_flash",
        len(pattern),
        heads[0],
        **dict(zip(names, widths, strict=True)),
        **{"swa_num_key_value_heads": heads[1], "sliding_window": 24},
        **{"hybrid_layer_pattern": [int(slides) for slides in pattern]},
    )
    answer = sglang_pools(config, tp, pp, 16, "bfloat16", layout)
    assert_same_bytes(answer, facts(config), 2, tp, pp)
    assert_same_context(sglang_pools(config, 1, 1, 16, "bfloat16", layout), config, "bfloat16")


def assert_same_context(answer: dict[str, Any], config: Any, dtype: str) -> None:
    """A context costs its tokens in the one pool and at most the window's in the other."""
    ours, ((device, _),) = facts(config), answer["stages"]
    for tokens in (1, 23, 24, 25, 1000):
        pooled = device[0] * tokens + device[1] * min(tokens, answer["window"])
        assert ours.kv_bytes(tokens, DTYPES[dtype]) == pooled


def test_gemma_3_keeps_all_tokens_in_all_layers(sglang_pools: Pools) -> None:
    config = decoder("Gemma3ForCausalLM", "gemma3_text", 6, 2, head_dim=16, sliding_window=24)
    answer = sglang_pools(config, 1, 1, 16, "bfloat16", "page_first_direct")
    assert answer["window"] is None
    ours = facts(config)
    assert (ours.full_layers, ours.window_layers, ours.window_tokens) == (1, 5, 24)
    assert_same_bytes(answer, ours, 2, 1, 1)
    assert ours.kv_bytes(1000, 2) == 1000 * ours.kv_bytes_per_token(2)
