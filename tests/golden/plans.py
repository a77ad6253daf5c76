"""The plans that are kept whole in `tests/golden/*.json`, and the fixed world they are made in.

After a wanted change write them anew, and read the difference before it is committed:

    PDCACHE_UPDATE_GOLDEN=1 python -m pytest tests/unit/plan/test_golden_plans.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pdcache.models.view import model_view
from pdcache.plan import Plan, build_plan
from pdcache.sglang_cpu import pythonpath_folder
from pdcache.topology import Topology, load_topology, parse_topology
from pdcache.topology.facts import GIB, Facts, ModelView, Node, meant_nodes

ROOT = Path(__file__).resolve().parents[2]
CODE = ROOT / "examples" / "custom_backend"
SHIPPED = {path.stem: path for path in sorted((ROOT / "topologies").glob("*.yaml"))}

QWEN = ModelView(
    path="Qwen/Qwen3-8B",
    kv_values_per_token=2 * 36 * 8 * 128,
    parameters=8_190_735_360,
    max_positions=40_960,
    weights_digest="Qwen/Qwen3-8B",
    tokenizer_digest="Qwen/Qwen3-8B",
)
HUB_MODELS = (
    "deepseek-ai/DeepSeek-R1",
    "Qwen/Qwen3-235B-A22B-Instruct-2507",
    "Qwen/Qwen3-32B",
)
MODELS = (
    {
        name: replace(model_view(name), path=f"/models/{name}")
        for name in ("smollm2-135m", "tiny-random")
    }
    | {
        name: replace(model_view(name), path=name, weights_digest=name, tokenizer_digest=name)
        for name in HUB_MODELS
    }
    | {"Qwen/Qwen3-8B": QWEN}
)

ONE_CPU_NODE = (Node(),)
ONE_GPU_NODE = (Node(memory_bytes=256 * GIB, cpus=64, gpus=8),)
THREE_GPU_NODES = tuple(
    Node(f"10.0.0.{i + 1}", memory_bytes=512 * GIB, cpus=96, gpus=8, ray_id=f"node{i}")
    for i in range(3)
)

THREE_NODES = """
name: three-nodes
mode: full_offload
model: {path: Qwen/Qwen3-8B, served_name: qwen, dtype: bfloat16}
prefill: {workers: 2, tp: 4}
decode: {workers: 2, tp: 4}
store: {holders: 3, segment_gb: 64, device: mlx5_0}
transfer: {ib_device: mlx5_0}
"""
CUDA = ["device=cuda", "model.path=Qwen/Qwen3-8B"]


def fixed_facts(nodes: Iterable[Node] = ONE_CPU_NODE, **more: Any) -> Facts:
    """The same on every machine."""
    return Facts(
        nodes=tuple(nodes),
        home=Path("/home/u/.pdcache"),
        temp=Path("/tmp/pdcache-1000"),
        python="python",
        **({"models": MODELS} | more),
    )


def shipped(name: str, *overrides: str) -> Topology:
    """A topology of the `topologies` folder."""
    return load_topology(SHIPPED[name], overrides)


def shipped_with_facts(name: str) -> tuple[Topology, Facts]:
    """A shipped topology on the nodes that it is meant for, with the code that it sends."""
    topology = shipped(name)
    code = {path.name: path.read_text() for path in CODE.glob("*.py")}
    used = code if topology.store.backend == "dynamic" else {}
    return topology, fixed_facts(meant_nodes(topology) or ONE_CPU_NODE, code=used)


GOLDEN: dict[str, tuple[Topology, Facts]] = {
    **{name: shipped_with_facts(name) for name in SHIPPED},
    "full_offload_cuda": (shipped("full_offload", *CUDA), fixed_facts(ONE_GPU_NODE)),
    "three_nodes": (
        parse_topology(THREE_NODES, source="three_nodes.yaml"),
        fixed_facts(THREE_GPU_NODES),
    ),
}


def golden_plan(name: str) -> Plan:
    """One of the plans, made now."""
    return build_plan(*GOLDEN[name])


def golden_file(name: str) -> Path:
    """Where that plan is kept."""
    return Path(__file__).with_name(f"{name}.json")


def comparable(plan: Plan) -> dict[str, Any]:
    """The plan as JSON data without the one path that depends on where pdcache is installed."""
    text = json.dumps(plan.as_json())
    data: dict[str, Any] = json.loads(
        text.replace(str(pythonpath_folder()), "<folder of the CPU lane>")
    )
    return data
