"""The ports that a topology gives to its processes."""

from __future__ import annotations

from pdcache.topology.schema import Role, Topology
from pdcache.topology.stores import Hf3fsStore, MooncakeStore


def given_ports(topology: Topology) -> dict[str, list[int]]:
    """Ports by the key that gives them; a key gives a row where several processes count up."""
    found = {"gateway.port": [topology.gateway.port]}
    for role in (Role.PREFILL, Role.DECODE):
        worker = topology.worker(role)
        for key, first in (("port", worker.port), ("bootstrap_port", worker.bootstrap_port)):
            if first is not None:
                found[f"{role}.{key}"] = _row(first, worker.workers)
        events = worker.kv_events
        if events is not None:
            count = worker.workers * max(worker.dp, worker.attn_dp)
            found[f"{role}.kv_events.port"] = _row(events.port, count)
            if events.replay_port is not None:
                found[f"{role}.kv_events.replay_port"] = _row(events.replay_port, count)
    store = topology.store
    if isinstance(store, MooncakeStore) and store.master is None:
        masters = store.ha.masters if store.ha is not None else 1
        for key, first in (("port", store.port), ("metrics_port", store.metrics_port)):
            if first is not None:
                found[f"store.{key}"] = _row(first, masters)
    if isinstance(store, Hf3fsStore) and store.port and store.metadata_server is None:
        found["store.port"] = [store.port]
    return found


def _row(first: int, count: int) -> list[int]:
    return [first + i for i in range(count)]
