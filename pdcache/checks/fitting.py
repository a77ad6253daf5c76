"""Sizes of a topology made smaller until it fits into the memory of its nodes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from pdcache.checks.budget import NodeBudget, budget
from pdcache.topology.facts import Facts
from pdcache.topology.schema import WORKER_ROLES, Role, Topology
from pdcache.topology.settings import ranks, role_settings
from pdcache.topology.stores import MooncakeStore

LEAST_TOKENS = 1024
LEAST_RATIO = {Role.PREFILL: 1.5, Role.DECODE: 0.05}
LEAST_SEGMENT_GB = 0.1
STEPS = 64

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Lever:
    """A size that can be made smaller: where it is set, what it is, and the least it may be.

    It stays a multiple of ``unit``; from 1 on it is whole.
    """

    path: str
    value: float
    least: float
    unit: float = 0.01


def lack(node: NodeBudget) -> int:
    """Bytes that a node lacks; negative when it has some to spare."""
    return node.needed_bytes - node.available_bytes


def fitting(topology: Topology, facts: Facts) -> dict[str, Any]:
    """Values by path with which every node has enough memory: the largest parts give way first.

    Caches and segments go before workers. What does not fit even then gets ``memory.host_gb``.
    """
    values: dict[str, Any] = {}
    spent: set[str] = set()
    for _ in range(STEPS):
        nodes = budget(topology, facts)
        index = max(range(len(nodes)), key=lambda i: lack(nodes[i]))
        missing = lack(nodes[index])
        if missing <= 0:
            return _without_idle(values)
        lever = next((own for own in levers(topology, nodes[index]) if own.path not in spent), None)
        if lever is None:
            break
        # Needs are linear in a size, near enough: what is left over is for the next round.
        smallest = budget(changed(topology, {lever.path: _number(lever, lever.least)}), facts)
        saved = missing - lack(smallest[index])
        if saved <= 0:
            spent.add(lever.path)
            continue
        wanted = lever.value - min(1.0, missing / saved) * (lever.value - lever.least)
        value = max(lever.least, math.floor(wanted / lever.unit) * lever.unit)
        if value in (lever.least, lever.value):
            spent.add(lever.path)
        values[lever.path] = _number(lever, value)
        topology = changed(topology, values)
    needed = max(budget(topology, facts), key=lack).needed_bytes
    return _without_idle(values) | {"memory.host_gb": int(needed // 1e9) + 1}


def levers(topology: Topology, node: NodeBudget) -> Iterator[Lever]:
    """What can be made smaller on a node: the sizes of its largest parts first, then workers."""
    parts = sorted(node.parts, key=lambda part: -node.parts[part])
    for part in parts:
        for lever in _sizes(topology, part, node.parts[part]):
            if lever.value > lever.least:
                yield lever
    for part in parts:
        role = _role(part)
        if role is not None and topology.worker(role).workers > 1:
            yield Lever(f"{role}.workers", topology.worker(role).workers, 1, unit=1)


def changed(topology: Topology, values: Mapping[str, Any]) -> Topology:
    """A topology with other values at dotted paths."""
    for path, value in values.items():
        topology = _changed(topology, path.split("."), value)
    return topology


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted path as YAML has them."""
    result: dict[str, Any] = {}
    for path, value in values.items():
        *sections, key = path.split(".")
        inner = result
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[key] = value
    return result


def _sizes(topology: Topology, part: str, size: int) -> Iterator[Lever]:
    role, kind, store = _role(part), part.partition(" ")[2], topology.store
    if kind == "segment" and isinstance(store, MooncakeStore):
        if role is None:
            yield Lever("store.segment_gb", store.segment_gb, LEAST_SEGMENT_GB)
        else:
            count = max(ranks(topology.worker(own)) for own in WORKER_ROLES)
            least = LEAST_SEGMENT_GB * count
            yield Lever("store.worker_segment_gb", store.worker_segment_gb, least)
    if role is None or kind not in ("L1", "L2", "offload staging", "retraction backup"):
        return
    settings, worker = role_settings(topology, role), topology.worker(role)
    pool, tokens = kind in ("L2", "offload staging"), settings["max_total_tokens"]
    if pool and "hicache_size" in settings:
        fixed = settings["hicache_size"]
        yield Lever(fixed.path, fixed.value, 1, unit=1)
        return
    if pool:
        ratio = settings["hicache_ratio"]
        yield Lever(ratio.path, ratio.value, LEAST_RATIO[role])
    if tokens.value is not None:
        page = int(settings["page_size"].value)
        yield Lever(tokens.path, tokens.value, max(page, LEAST_TOKENS), unit=page)
    elif pool:
        # The GPU decides the size of L1: a fixed size takes the place of the ratio.
        path = settings["hicache_ratio"].path.removesuffix("ratio") + "size_gb"
        per_rank = size * worker.nodes / ranks(worker) / 1e9
        yield Lever(path, per_rank, 1, unit=1)


def _without_idle(values: dict[str, Any]) -> dict[str, Any]:
    """Without ratios in whose place there is a size."""
    sized = {path.removesuffix("size_gb") for path in values if path.endswith(".size_gb")}
    return {
        path: value for path, value in values.items() if path.removesuffix("ratio") not in sized
    }


def _role(part: str) -> Role | None:
    return next((role for role in WORKER_ROLES if part.startswith(f"{role}-")), None)


def _number(lever: Lever, value: float) -> float:
    return int(value) if lever.unit >= 1 else round(value, 2)


def _changed(model: _Model, path: list[str], value: Any) -> _Model:
    key, *rest = path
    if rest:
        value = _changed(getattr(model, key), rest, value)
    return model.model_copy(update={key: value})
