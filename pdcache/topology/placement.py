"""Which process runs on which node: names and places, before any port or flag."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

from pdcache.topology.facts import Node
from pdcache.topology.schema import Role, Topology
from pdcache.topology.settings import ranks
from pdcache.topology.stores import Hf3fsStore, MooncakeStore


@dataclass(frozen=True)
class Place:
    """A process of the topology and its node.

    Attributes:
        kind: prefill, decode, gateway, or what it is to the store (master, holder, …).
        index: counts within its kind; all ranks of a server have the server's index.
        node: index of the node.
        rank: which of the server's nodes this is; 0 serves HTTP.
        gpus: that it takes on this node.
    """

    name: str
    role: Role
    kind: str
    index: int
    node: int
    gpus: int = 0
    rank: int = 0


def place(
    topology: Topology, nodes: tuple[Node, ...], pinned: Mapping[str, int] | None = None
) -> list[Place]:
    """Spread a topology over nodes, in start order: store, prefill, decode, gateway.

    Each part of a server goes to the node with the most free GPUs (on ``device: cpu``: the fewest
    workers); the parts of one server go to different nodes. Too few GPUs or nodes are left for the
    check `gpus` to report; the plan then shows the servers on the emptiest node.

    Args:
        pinned: index of the node by the name of a process that has one already.
    """
    pinned = pinned or {}
    free = [node.gpus if topology.device == "cuda" else 0 for node in nodes]
    load = [0] * len(nodes)
    for role in (Role.PREFILL, Role.DECODE):
        need = _gpus_of_part(topology, role)
        for name in _part_names(topology, role):
            if (at := pinned.get(name)) is not None:
                free[at] -= need
                load[at] += 1
    places = store_places(topology, len(nodes), pinned)
    emptiest = _Nodes(free, load)
    for role in (Role.PREFILL, Role.DECODE):
        worker = topology.worker(role)
        need = _gpus_of_part(topology, role)
        for i in range(worker.workers):
            used: set[int] = set()
            for rank in range(worker.nodes):
                name = f"{role}-{i}" + (f"-rank-{rank}" if rank else "")
                at = pinned.get(name)
                if at is None:
                    at = emptiest.take(need, used)
                used.add(at)
                places.append(Place(name, role, role.value, i, at, need, rank))
    places.append(Place("gateway", Role.GATEWAY, "gateway", 0, 0))
    return places


class _Nodes:
    """The nodes, emptiest first: a part of a server finds its node without a look at each.

    Args:
        free: GPUs of each node that nobody has; 0 where none are used.
        load: parts of servers on each node.
    """

    def __init__(self, free: Iterable[int], load: Iterable[int]) -> None:
        rows = zip(free, load, strict=True)
        self._heap = [(-own, count, node) for node, (own, count) in enumerate(rows)]
        heapq.heapify(self._heap)

    def take(self, need: int, used: Container[int]) -> int:
        """Put a part of ``need`` GPUs on the emptiest node that is not in ``used``.

        When all are in it, on the emptiest of all.
        """
        passed = []
        while self._heap and self._heap[0][2] in used:
            passed.append(heapq.heappop(self._heap))
        taken, load, node = heapq.heappop(self._heap) if self._heap else passed.pop(0)
        for own in (*passed, (taken + need, load + 1, node)):
            heapq.heappush(self._heap, own)
        return node


def _gpus_of_part(topology: Topology, role: Role) -> int:
    """GPUs of one part of a server."""
    worker = topology.worker(role)
    return -(-ranks(worker) // worker.nodes) if topology.device == "cuda" else 0


def _part_names(topology: Topology, role: Role) -> Iterator[str]:
    worker = topology.worker(role)
    for i in range(worker.workers):
        yield f"{role}-{i}"
        yield from (f"{role}-{i}-rank-{rank}" for rank in range(1, worker.nodes))


def store_places(
    topology: Topology, nodes: int, pinned: Mapping[str, int] | None = None
) -> list[Place]:
    """The store's own processes: none where it is given, or is nothing but a folder."""
    known = pinned or {}

    def spread(kind: str, count: int) -> list[Place]:
        names = [f"store-{kind}-{i}" for i in range(count)]
        return [
            Place(name, Role.STORE, kind, i, known.get(name, i % nodes))
            for i, name in enumerate(names)
        ]

    def single(kind: str) -> Place:
        name = f"store-{kind}"
        return Place(name, Role.STORE, kind, 0, known.get(name, 0))

    store = topology.store
    if isinstance(store, MooncakeStore) and store.master is None:
        masters = [single("master")] if store.ha is None else spread("master", store.ha.masters)
        etcd = [single("etcd")] if store.ha is not None and store.ha.etcd is None else []
        # A node that joins a running cluster brings no holder: the store cannot change then.
        running = sum(name.startswith("store-holder-") for name in known)
        count = running if running and store.holders is None else holders(store, nodes)
        return [*etcd, *masters, *spread("holder", count)]
    if isinstance(store, Hf3fsStore) and store.metadata_server is None:
        return [single("metadata")]
    return []


def holders(store: MooncakeStore, nodes: int) -> int:
    """How many processes hold segments: as many as given, else one on each node."""
    return nodes if store.holders is None else store.holders
