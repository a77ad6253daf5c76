"""The flags of SGLang's server as data: spellings, values, and what is said about wrong ones."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from golden.plans import GOLDEN, golden_plan

from pdcache.checks.rules.mode import OWNED
from pdcache.sglang.flags import flag
from pdcache.sglang.server_args import (
    SERVER_ARGS,
    VERSION,
    canonical,
    find,
    mended,
    nearest,
    problem,
)
from pdcache.sglang_cpu import ATTENTION_BACKEND
from pdcache.topology import Role


def found(name: str) -> str | None:
    arg = find(name)
    return None if arg is None else arg.name


@pytest.mark.parametrize(
    "name",
    ["tp_size", "tp-size", "--tp-size", "--tensor-parallel-size", "tensor_parallel_size", "--tp"],
)
def test_every_spelling_leads_to_the_same_flag(name: str) -> None:
    assert found(name) == "tp_size"
    assert canonical(name) == "tp_size"


def test_the_start_of_several_flags_is_none_of_them() -> None:
    assert find("--enable-hi") is None
    said = problem("--enable-hi", True)
    assert said is not None
    assert "short for 3 flags of SGLang (enable_hierarchical_cache, enable_hicache, " in said


def test_an_exact_spelling_is_not_taken_for_the_start_of_another() -> None:
    assert found("--hicache-storage-backend") == "hicache_storage_backend"
    assert found("--model") == "model_path"


def test_the_negation_of_a_switch_is_a_spelling_of_it() -> None:
    assert found("no-dllm-fdfo") == "dllm_fdfo"
    assert problem("no_dllm_fdfo", True) is None


def test_an_unknown_name_has_no_flag_and_keeps_its_name() -> None:
    assert find("no-such-thing") is None
    assert canonical("--no-such-thing") == "no_such_thing"
    assert nearest("no-such-thing") is None
    assert problem("no-such-thing", 1) == f"SGLang {VERSION} has no flag no-such-thing."


@pytest.mark.parametrize(
    ("name", "flag_meant"),
    [
        ("enable-mixed-chunks", "enable_mixed_chunk"),
        ("--kv_cache_type", "kv_cache_dtype"),
        ("attention_backends", "attention_backend"),
        ("tensor-paralel-size", "tp_size"),
        ("fp8_gemm_runner_backend", "fp8_gemm_backend"),
        ("page_size", "page_size"),
    ],
)
def test_the_nearest_flag_is_the_one_that_was_meant(name: str, flag_meant: str) -> None:
    assert nearest(name) == flag_meant


def test_a_deprecated_flag_is_marked_and_never_proposed() -> None:
    deprecated = {name for name, arg in SERVER_ARGS.items() if arg.deprecated}
    assert {"disable_cuda_graph", "enable_dp_attention"} <= deprecated
    assert problem("enable_dp_attention", True) is None
    assert not {nearest(f"{name}s") for name in deprecated} & deprecated


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable_mixed_chunk", True),
        ("enable_mixed_chunk", False),
        ("stream_interval", 4),
        ("stream_interval", "4"),
        ("stream_interval", None),
        ("schedule_conservativeness", 1),
        ("schedule_conservativeness", "-0.5"),
        ("max_prefill_tokens", "16k"),
        ("max_prefill_tokens", "16Ki"),
        ("kv_cache_dtype", "fp8_e4m3"),
        ("preferred_sampling_params", '{"top_p": 0.9}'),
        ("cuda_graph_bs_decode", 8),
        ("lora_paths", True),
        ("chat_template", "two words"),
        ("enable_tf32_matmul", True),
    ],
)
def test_a_value_that_sglang_takes_has_no_problem(name: str, value: Any) -> None:
    assert problem(name, value) is None


@pytest.mark.parametrize(
    ("name", "value", "said", "better"),
    [
        ("enable_mixed_chunk", "true", "is a switch: it takes true or false, not 'true'", True),
        ("enable_mixed_chunk", 0, "is a switch", False),
        ("enable_tf32_matmul", False, "no_enable_tf32_matmul: true turns it off", None),
        ("enable_tf32_matmul", "on", "is a switch", True),
        ("stream_interval", "often", "takes a whole number, not 'often'", 1),
        ("stream_interval", 2.0, "takes a whole number", 2),
        ("stream_interval", True, "takes a whole number, not true", 1),
        ("stream_interval", False, "takes a whole number, not false", 1),
        ("max_total_tokens", "8K", "8k and 8Ki are short forms", None),
        ("schedule_conservativeness", "high", "takes a number", 1.0),
        ("kv_cache_dtype", "fp8", "is one of auto, fp8_e5m2, fp8_e4m3, ", "fp8_e5m2"),
        ("kv_cache_dtype", "fp8_e4m4", "not 'fp8_e4m4'", "fp8_e4m3"),
        ("kv_cache_dtype", "?", "is one of", "auto"),
        ("preferred_sampling_params", "{top_p: 0.9}", "takes JSON", None),
        ("cuda_graph_bs_decode", "1 2 4", "of which args gives one", None),
        ("chat_template", "-x", "as another flag", None),
        ("kv-cache-dt", "auto", "short for kv_cache_dtype", None),
    ],
)
def test_a_value_that_sglang_refuses_is_told_with_a_better_one(
    name: str, value: Any, said: str, better: Any
) -> None:
    message = problem(name, value)
    assert message is not None
    assert said in message
    assert message.endswith(".")
    assert mended(name, value) == better
    assert type(mended(name, value)) is type(better)
    assert better is None or problem(name, better) is None


def test_a_name_is_what_the_command_line_is_made_of() -> None:
    assert {flag(name) for name in SERVER_ARGS} == {arg.options[0] for arg in SERVER_ARGS.values()}


def test_every_flag_that_pdcache_owns_is_known() -> None:
    assert set(SERVER_ARGS) >= OWNED


@pytest.mark.parametrize("name", GOLDEN)
def test_every_flag_of_a_plan_is_known_and_has_a_possible_value(name: str) -> None:
    plan = golden_plan(name)
    servers = [one.name for one in plan.processes if one.role in (Role.PREFILL, Role.DECODE)]
    problems = {
        (server, option): problem(option, origin.value)
        for server in servers
        for option, origin in plan.provenance[server].items()
        if origin.value != ATTENTION_BACKEND  # the lane's plugin adds it to SGLang's choices
    }
    assert problems
    assert set(problems.values()) == {None}


def test_the_data_are_not_read_before_they_are_asked_for() -> None:
    code = (
        "from pdcache.sglang import server_args\n"
        "assert server_args._catalogue.cache_info().currsize == 0\n"
        "assert server_args.VERSION\n"
        "assert server_args._catalogue.cache_info().currsize == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
