"""Host memory a topology needs on each node, in bytes, part by part."""

from __future__ import annotations

from dataclasses import dataclass

from pdcache.topology.facts import GIB, Facts, ModelView
from pdcache.topology.placement import Place, place
from pdcache.topology.schema import WORKER_ROLES, Role, Topology
from pdcache.topology.setting import Settings
from pdcache.topology.settings import KV_DTYPES, attention_tp, ranks, role_settings
from pdcache.topology.stores import MooncakeStore

GPU_FRACTION = 0.85
"""Near what SGLang chooses for mem_fraction_static itself."""
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}
# Measured PSS on the CPU lane with the tiny model, and rounded up: interpreter, torch, SGLang.
SERVER_BYTES = int(1.0 * GIB)
HALF_BYTES = 2
"""For each parameter the CPU lane keeps the upper half of a float32 a second time, at most."""
HOLDER_BYTES = 64 << 20
MASTER_BYTES = 64 << 20
GATEWAY_BYTES = 128 << 20
ETCD_BYTES = 64 << 20
METADATA_BYTES = 1 << 30
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
    servers = {role: _part_of_server(topology, facts, role) for role in WORKER_ROLES}
    on_node: list[list[Place]] = [[] for _ in facts.nodes]
    for spot in place(topology, facts.nodes):
        on_node[spot.node].append(spot)
    result = []
    for node, places in zip(facts.nodes, on_node, strict=True):
        parts: dict[str, int] = {"ray": RAY_BYTES, "system": SYSTEM_BYTES}
        unknown: list[str] = []
        for spot in places:
            if spot.role in WORKER_ROLES:
                own, missing = servers[spot.role]
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
    worker = topology.worker(role)
    return view.rank_kv_values(attention_tp(worker), worker.pp) * kv_itemsize(settings)


def kv_itemsize(settings: Settings) -> int:
    """Bytes of one number of KV; ``kv_cache_dtype`` is the compute dtype unless it is given."""
    given = settings["kv_cache_dtype"].value if "kv_cache_dtype" in settings else "auto"
    return KV_DTYPES.get(str(given)) or DTYPE_BYTES[settings["dtype"].value]


def l1_tokens(topology: Topology, facts: Facts, role: Role, settings: Settings) -> int | None:
    """Tokens of L1 on one rank; None when the GPU decides and its memory is not known.

    On a GPU an estimate: its memory x mem_fraction_static, less its share of the weights.
    """
    given = settings["max_total_tokens"].value
    if given is not None:
        return int(given)
    view = facts.models.get(model_path(topology, role))
    gpu_gb = topology.nodes.gpu_gb if topology.nodes is not None else None
    per_token = token_bytes(topology, facts, role, settings)
    if view is None or gpu_gb is None or not per_token:
        return None
    worker = topology.worker(role)
    weights = view.weight_bytes or view.parameters * DTYPE_BYTES[settings["dtype"].value]
    share = settings["mem_fraction_static"].value or GPU_FRACTION
    return max(0, int(gpu_gb * 1e9 * share - weights / (worker.tp * worker.pp)) // per_token)


def l2_tokens(settings: Settings, per_token: int, l1: int | None) -> int | None:
    """Tokens of L2, or of decode's staging pool, on one rank; None when the GPU decides.

    Source: sglang 0.5.23 ``mem_cache/pool_host/base.py:220-229``.
    """
    page = int(settings["page_size"].value)
    if "hicache_size" in settings:
        if not per_token:
            return None
        tokens = int(settings["hicache_size"].value * 1e9) // per_token
    elif "hicache_ratio" in settings and l1 is not None:
        tokens = int(l1 // page * page * settings["hicache_ratio"].value)
    else:
        return None
    return (tokens // page + 1) * page


def model_path(topology: Topology, role: Role) -> str:
    """The model path a role uses, as the YAML gives it."""
    return topology.worker(role).model_path or topology.model.path


def _server(topology: Topology, facts: Facts, role: Role) -> tuple[dict[str, int], list[str]]:
    """Parts of one server over all its nodes, and those whose size the GPU decides."""
    settings = role_settings(topology, role)
    count = ranks(topology.worker(role))
    per_token = token_bytes(topology, facts, role, settings)
    view = facts.models.get(model_path(topology, role))
    parts = {"process": SERVER_BYTES * count}
    unknown: list[str] = []
    l1 = l1_tokens(topology, facts, role, settings)
    if topology.device == "cpu":
        if view is not None:
            dtype = settings["dtype"].value
            parts["weights"] = view.parameters * DTYPE_BYTES[dtype]
            if dtype == "float32":
                parts["weights for few rows"] = view.parameters * HALF_BYTES
        parts["L1"] = (l1 or 0) * per_token * count
    worker_segment = int(getattr(topology.store, "worker_segment_gb", 0) * 1e9)
    if worker_segment and "hicache_storage_backend" in settings:
        parts["segment"] = worker_segment
    name = "L2" if role is Role.PREFILL else "offload staging"
    if "hicache_size" in settings:
        parts[name] = int(settings["hicache_size"].value * 1e9) * count
    elif "hicache_mem_layout" in settings:
        tokens = l2_tokens(settings, per_token, l1)
        if tokens is None or not per_token:
            unknown.append(name)
        else:
            parts[name] = tokens * per_token * count
    elif view is not None and not view.is_mla and per_token and l1 is not None:
        parts["retraction backup"] = _retraction(topology, l1, view) * per_token * count
    return parts, unknown


def _part_of_server(
    topology: Topology, facts: Facts, role: Role
) -> tuple[dict[str, int], list[str]]:
    """The same on one of the nodes that the server spans."""
    parts, unknown = _server(topology, facts, role)
    nodes = topology.worker(role).nodes
    return {part: size // nodes for part, size in parts.items()}, unknown


def _retraction(topology: Topology, l1: int, view: ModelView) -> int:
    """Tokens of the host pool in which plain decode keeps retracted requests of MHA models.

    Source: sglang 0.5.23 ``mem_cache/kv_cache_builder.py:244-258`` (a fifth of L1, at least one
    whole request).
    """
    if topology.decode.retraction_backup not in (None, "host_pool") or topology.decode.radix_cache:
        return 0
    longest = topology.model.context_length or view.max_positions or l1
    return max(l1 // 5, min(longest, l1))


def _service(topology: Topology, kind: str) -> dict[str, int]:
    store = topology.store
    if kind == "holder" and isinstance(store, MooncakeStore):
        return {"process": HOLDER_BYTES, "segment": int(store.segment_gb * 1e9)}
    sizes = {
        "master": MASTER_BYTES,
        "etcd": ETCD_BYTES,
        "metadata": METADATA_BYTES,
        "gateway": GATEWAY_BYTES,
    }
    return {"process": sizes[kind]}
