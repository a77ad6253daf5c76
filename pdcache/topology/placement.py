"""Which process runs on which node: names and places, before any port or flag."""

from __future__ import annotations

from dataclasses import dataclass

from pdcache.topology.facts import Node
from pdcache.topology.schema import Role, Topology


@dataclass(frozen=True)
class Place:
    """A process of the topology and the index of its node; ``index`` counts within its kind."""

    name: str
    role: Role
    kind: str
    index: int
    node: int
    gpus: int = 0


def place(topology: Topology, nodes: tuple[Node, ...]) -> list[Place]:
    """Spread a topology over nodes, in start order: store, prefill, decode, gateway.

    A server with ``tp`` ranks goes to the node with the most free GPUs (on ``device: cpu``: the
    fewest workers). Too few GPUs are left for the check `gpus` to report; the plan then shows the
    servers on the emptiest node.
    """
    free = [node.gpus for node in nodes]
    load = [0] * len(nodes)
    places: list[Place] = []
    if topology.store.master is None:
        places.append(Place("store-master", Role.STORE, "master", 0, 0))
        places += [
            Place(f"store-holder-{i}", Role.STORE, "holder", i, i % len(nodes))
            for i in range(topology.store.holders)
        ]
    for role in (Role.PREFILL, Role.DECODE):
        worker = topology.worker(role)
        need = worker.tp if topology.device == "cuda" else 0
        for i in range(worker.workers):
            node = max(range(len(nodes)), key=lambda n: (free[n] >= need, free[n], -load[n], -n))
            if not need:
                node = min(range(len(nodes)), key=lambda n: (load[n], n))
            free[node] -= need
            load[node] += 1
            places.append(Place(f"{role}-{i}", role, role.value, i, node, need))
    places.append(Place("gateway", Role.GATEWAY, "gateway", 0, 0))
    return places
