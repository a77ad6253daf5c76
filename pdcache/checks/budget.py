"""Host memory a topology needs on each node, in bytes, part by part."""

from __future__ import annotations

from dataclasses import dataclass

from pdcache.topology.facts import GIB, Facts
from pdcache.topology.placement import place
from pdcache.topology.schema import Role, Topology
from pdcache.topology.settings import Settings, role_settings

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}
# Measured PSS on the CPU lane with the tiny model, and rounded up: interpreter, torch, SGLang.
SERVER_BYTES = int(1.0 * GIB)
HOLDER_BYTES = 64 << 20
MASTER_BYTES = 64 << 20
GATEWAY_BYTES = 128 << 20
RAY_BYTES = 1 * GIB
# What the operating system and its page cache keep.
SYSTEM_BYTES = 1 * GIB


@dataclass(frozen=True)
class NodeBudget:
    """One node's need against what it has; ``parts`` sums to ``needed_bytes``."""

    node: str
    needed_bytes: int
    available_bytes: int
    parts: dict[str, int]
    unknown: tuple[str, ...] = ()


def budget(topology: Topology, facts: Facts) -> list[NodeBudget]:
    """The host memory budget of every node that runs something.

    L2 of a CUDA worker sized by ratio depends on the GPU and is listed under ``unknown``.
    """
    result = []
    places = place(topology, facts.nodes)
    for index, node in enumerate(facts.nodes):
        parts: dict[str, int] = {"ray": RAY_BYTES, "system": SYSTEM_BYTES}
        unknown: list[str] = []
        for spot in places:
            if spot.node != index:
                continue
            if spot.role in (Role.PREFILL, Role.DECODE):
                own, missing = _server(topology, facts, spot.role)
                unknown += [f"{spot.name} {name}" for name in missing]
            else:
                own = _service(topology, spot.kind)
            for part, size in own.items():
                parts[f"{spot.name} {part}"] = size
        limit = topology.memory.host_gb
        available = int(limit * 1e9) if limit is not None else node.memory_bytes
        result.append(
            NodeBudget(node.address, sum(parts.values()), available, parts, tuple(unknown))
        )
    return result


def token_bytes(topology: Topology, facts: Facts, role: Role, settings: Settings) -> int:
    """KV bytes of one token on one rank; 0 when the model is not at hand."""
    view = facts.models.get(model_path(topology, role))
    if view is None:
        return 0
    ranks = 1 if view.is_mla else settings["tp_size"].value
    size = DTYPE_BYTES[settings["dtype"].value]
    return view.kv_values_per_token * size // int(ranks)


def model_path(topology: Topology, role: Role) -> str:
    """The model path a role uses, as the YAML gives it."""
    return topology.worker(role).model_path or topology.model.path


def _server(topology: Topology, facts: Facts, role: Role) -> tuple[dict[str, int], list[str]]:
    settings = role_settings(topology, role)
    ranks = int(settings["tp_size"].value)
    per_token = token_bytes(topology, facts, role, settings) * ranks
    view = facts.models.get(model_path(topology, role))
    parts = {"process": SERVER_BYTES * ranks}
    unknown: list[str] = []
    l1_tokens = settings["max_total_tokens"].value
    if topology.device == "cpu":
        if view is not None:
            parts["weights"] = view.parameters * DTYPE_BYTES[settings["dtype"].value]
        parts["L1"] = l1_tokens * per_token
    name = "L2" if role is Role.PREFILL else "offload staging"
    if "hicache_size" in settings:
        parts[name] = int(settings["hicache_size"].value * 1e9) * ranks
    elif "hicache_ratio" in settings:
        if l1_tokens is None or not per_token:
            unknown.append(name)
        else:
            parts[name] = int(l1_tokens * settings["hicache_ratio"].value) * per_token
    return parts, unknown


def _service(topology: Topology, kind: str) -> dict[str, int]:
    if kind == "master":
        return {"process": MASTER_BYTES}
    if kind == "holder":
        return {"process": HOLDER_BYTES, "segment": int(topology.store.segment_gb * 1e9)}
    return {"process": GATEWAY_BYTES}
