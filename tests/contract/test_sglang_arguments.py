"""Every server of every golden plan, in the hands of SGLang's own argument parser and rules.

Importing SGLang takes long, so one process of the CPU lane reads all command lines. Each is read on
the machine that it is for, as far as SGLang's rules can tell:

* A `device: cuda` plan is read as on an H100 and as on a B200. SGLang has a scope for that,
  ``override_platform``; what it does not reach is stubbed beside it: the default device, the GPU's
  memory and torch's compute capability.
* `/sys/class/infiniband` seems to hold mlx5_0 to mlx5_15.
* The model is a folder with the real model's config.json and nothing else, which is all that rules
  look at.
* The environment is the process's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from golden.plans import GOLDEN, golden_plan

from pdcache.models.builtin import BUILTIN_MODELS, TINY_RANDOM
from pdcache.models.known_models import known_config
from pdcache.plan.process import Process
from pdcache.sglang.server_args import find
from pdcache.sglang_cpu import pythonpath_folder, worker_environment
from pdcache.topology import Role
from pdcache.topology.setting import Setting
from pdcache.topology.switches import resolve

GPUS = {
    "H100": {
        "memory_mb": 81_559,
        "facts": {
            "device_sm": 90,
            "device_capability": [9, 0],
            "is_sm90": True,
            "is_hopper_with_cuda_12_3": True,
        },
    },
    "B200": {
        "memory_mb": 183_359,
        "facts": {
            "device_sm": 100,
            "device_capability": [10, 0],
            "is_sm100": True,
            "is_sm100_or_sm110": True,
            "is_blackwell": True,
        },
    },
}
"""What SGLang asks a GPU for."""


SAME = {"mooncake_tcp": "mooncake"}
"""Values that SGLang has another name for after its rules."""


@dataclass(frozen=True)
class Server:
    """One server of a plan, on one kind of machine."""

    plan: str
    process: Process
    gpu: str | None

    @property
    def label(self) -> str:
        """Name of the server in test reports."""
        return f"{self.plan}: {self.process.name} on {self.gpu or 'a CPU'}"

    @property
    def planned(self) -> dict[str, Any]:
        """What the plan says of each argument, by SGLang's own name for it, as SGLang reads it."""
        said = {}
        for option, origin in golden_plan(self.plan).provenance[self.process.name].items():
            arg, value = find(option), origin.value
            assert arg is not None, option
            value = json.loads(value) if arg.kind == "json" else SAME.get(value, value)
            said[arg.field] = [value] if arg.nargs in ("*", "+") else value
        return said


SERVERS = {
    server.label: server
    for name in GOLDEN
    for process in golden_plan(name).processes
    if process.role in (Role.PREFILL, Role.DECODE)
    for gpu in (GPUS if GOLDEN[name][0].device == "cuda" else [None])
    for server in [Server(name, process, gpu)]
}
LAYOUTS = ("layer_first", "page_first", "page_first_direct", "page_head", "page_first_kv_split")
STORES = ("mooncake", "file", "hf3fs", "nixl", "aibrix", "eic", "simm", "dynamic")
SWITCHES = [
    (layout, io, store, "cache", "write_through")
    for layout in LAYOUTS
    for io in ("kernel", "direct")
    for store in STORES
] + [("page_first_direct", "direct", "mooncake", "buffer_only", "write_back")]
SWITCHED = (
    "hicache_mem_layout",
    "hicache_io_backend",
    "hicache_storage_backend",
    "hicache_host_memory_mode",
    "hicache_write_policy",
)

SHAPES_KV = (
    "attn_", "context_length", "dcp_size", "device", "disable_radix_cache", "disaggregation_",
    "dp_size", "dtype", "enable_hierarchical_cache", "enable_unified_memory", "hicache_",
    "kv_cache_dtype", "max_running_requests", "max_total_tokens", "page_size", "pp_size",
    "radix_", "served_model_name", "tp_size",
)  # fmt: skip
"""Starts of the names of all that decides what KV is kept, in which form, and where."""

# Reads {name: {argv, env, gpu}} on stdin; prints a JSON line a name: what each argument is as
# parsed, and after all rules.
READ = """
import contextlib, json, os, sys
from unittest.mock import patch

from sglang.srt.plugins import load_plugins

load_plugins()  # As SGLang does before it reads arguments: the lane's attention has a name there.

from sglang.srt.arg_groups import kv_shard_hook, memory_hook, serving_hook
from sglang.srt.arg_groups.arg_utils import record_fields
from sglang.srt.runtime_context import override_platform
from sglang.srt.server_args import prepare_server_args

INFINIBAND = "/sys/class/infiniband"
isdir, listdir, environment = os.path.isdir, os.listdir, dict(os.environ)

@contextlib.contextmanager
def machine(gpu):
    with contextlib.ExitStack() as stubs:
        stub = lambda *args: stubs.enter_context(patch(*args))
        stub("os.path.isdir", lambda path: path == INFINIBAND or isdir(path))
        devices = [f"mlx5_{number}" for number in range(16)]
        stub("os.listdir", lambda path=".": devices if path == INFINIBAND else listdir(path))
        if gpu:
            facts = gpu["facts"] | {"device_capability": tuple(gpu["facts"]["device_capability"])}
            stubs.enter_context(
                override_platform(is_cuda=True, has_flashinfer=True, has_amx=False, **facts)
            )
            stub("sglang.srt.arg_groups.serving_hook.get_device", lambda: "cuda")
            stub("torch.cuda.get_device_capability", lambda *device: facts["device_capability"])
            for hook in ("memory_hook", "kv_shard_hook"):
                name = f"sglang.srt.arg_groups.{hook}.get_device_memory_capacity"
                stub(name, lambda *device: gpu["memory_mb"])
        yield

def read(argv, env, gpu):
    os.environ.clear()
    os.environ.update(environment | env)
    with machine(gpu):
        args = prepare_server_args(argv)
        parsed = {field.name: getattr(args, field.name) for field in record_fields(type(args))}
        args.resolve_once()
        return {"parsed": parsed, "resolved": args.resolved_dict()}

for name, line in json.load(sys.stdin).items():
    try:
        result = read(**line)
    except (Exception, SystemExit) as error:
        result = {"refused": f"{type(error).__name__}: {error}"}
    print("RESULT", json.dumps([name, result], default=str), flush=True)
"""

Read = dict[str, dict[str, Any]]


def config_of(model: str) -> Mapping[str, Any]:
    """The config.json of a model that plans name, else of a small Llama."""
    builtin = BUILTIN_MODELS.get(Path(model).name)
    if builtin is not None:
        return builtin.config
    return known_config(model) or BUILTIN_MODELS[TINY_RANDOM].config


def with_value(argv: list[str], flag: str, value: str) -> list[str]:
    """The words with another value of a flag, which is added if it is not among them."""
    if flag not in argv:
        return [*argv, flag, value]
    at = argv.index(flag)
    return [*argv[: at + 1], value, *argv[at + 2 :]]


def line_of(server: Server, models: Path, **values: str) -> dict[str, Any]:
    """A server's own words, environment and machine, with a model that is on this machine."""
    argv = list(server.process.argv[3:])
    model = argv[argv.index("--model-path") + 1]
    folder = models / model.replace("/", "--")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config_of(model))))
    argv = with_value(argv, "--model-path", str(folder))
    for name, value in values.items():
        argv = with_value(argv, "--" + name.replace("_", "-"), value)
    env = {
        name: value
        for name, value in server.process.env.items()
        if name not in ("TMPDIR", "PYTHONPATH")
    }
    return {"argv": argv, "env": env, "gpu": GPUS[server.gpu] if server.gpu else None}


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """What SGLang makes of every command line, by its name."""
    models = tmp_path_factory.mktemp("models")
    lines = {name: line_of(server, models) for name, server in SERVERS.items()}
    base = next(server for server in SERVERS.values() if server.process.role is Role.PREFILL)
    for case in SWITCHES:
        lines[" ".join(case)] = line_of(base, models, **dict(zip(SWITCHED, case, strict=True)))
    lines["mooncake_tcp"] = line_of(base, models, disaggregation_transfer_backend="mooncake_tcp")
    lines["nonsense"] = line_of(base, models) | {"argv": ["--no-such-flag"]}
    done = subprocess.run(
        [sys.executable, "-c", READ],
        env=os.environ | worker_environment() | {"PYTHONPATH": str(pythonpath_folder())},
        input=json.dumps(lines), capture_output=True, text=True, timeout=300, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return dict(map(json.loads, results))


@pytest.mark.parametrize("name", SERVERS)
def test_sglang_takes_every_server_of_a_plan(read: Read, name: str) -> None:
    assert "refused" not in read[name], read[name]
    assert read[name]["resolved"]["device"] == ("cuda" if SERVERS[name].gpu else "cpu")


@pytest.mark.parametrize("name", SERVERS)
def test_after_sglangs_own_rules_every_argument_is_what_the_plan_says(
    read: Read, name: str
) -> None:
    planned = SERVERS[name].planned
    del planned["model_path"]
    assert {key: read[name]["resolved"][key] for key in planned} == planned


@pytest.mark.parametrize("name", SERVERS)
def test_sglang_changes_nothing_of_kv_beyond_the_plan_but_what_follows_from_it(
    read: Read, name: str
) -> None:
    server, planned = SERVERS[name], set(SERVERS[name].planned)
    follows = set()
    if server.process.role is Role.DECODE:
        follows |= {"disable_radix_cache", "disaggregation_decode_extra_slots"}
    if planned & {"hicache_ratio", "hicache_size"}:
        follows.add("hicache_host_memory_fraction")
    if server.gpu:
        follows.add("device")
    parsed, resolved = read[name]["parsed"], read[name]["resolved"]
    changed = {
        key for key, value in resolved.items() if key.startswith(SHAPES_KV) and value != parsed[key]
    }
    assert changed - planned == follows - planned


@pytest.mark.parametrize("name", SERVERS)
def test_what_is_left_to_sglang_does_not_work_against_the_mode(read: Read, name: str) -> None:
    found, server = read[name]["resolved"], SERVERS[name]
    assert found["disaggregation_mode"] == server.process.role.value
    mode = golden_plan(server.plan).mode.value
    if server.process.role is Role.PREFILL:
        assert found["enable_hierarchical_cache"]
        assert not found["disable_radix_cache"]
    else:
        assert not found["disaggregation_decode_enable_radix_cache"]
        offloads = mode == "full_offload"
        assert found["disaggregation_decode_enable_offload_kvcache"] is offloads


@pytest.mark.parametrize("case", SWITCHES, ids=" ".join)
def test_sglang_switches_layout_io_and_policy_as_we_say_it_does(
    read: Read, case: tuple[str, ...]
) -> None:
    asked = dict(zip(SWITCHED, case, strict=True))
    ours = resolve({key: Setting(value, "user", "", "") for key, value in asked.items()})
    theirs = read[" ".join(case)]["resolved"]
    assert {key: theirs[key] for key in ours} == {key: own.value for key, own in ours.items()}


def test_mooncake_tcp_is_mooncake_to_sglang(read: Read) -> None:
    resolved = read["mooncake_tcp"]["resolved"]
    assert resolved["disaggregation_transfer_backend"] == SAME["mooncake_tcp"]


def test_an_argument_sglang_does_not_know_would_be_seen(read: Read) -> None:
    assert "refused" in read["nonsense"]
