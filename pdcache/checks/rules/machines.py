"""Rules on nodes and their GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pdcache.checks.finding import Finding
from pdcache.checks.rule import Subject, finding, rule, yaml_text
from pdcache.topology.facts import Node, meant_nodes
from pdcache.topology.placement import place
from pdcache.topology.schema import WORKER_ROLES, Role, Topology, Worker
from pdcache.topology.settings import ranks

MOST_NODES, MOST_NODES_A_SERVER = 1024, 64
"""As many as the schema takes."""


@rule("gpus", "Ray would wait for ever for GPUs that do not exist")
def gpus(subject: Subject) -> Iterable[Finding]:
    """On device cuda the nodes have the GPUs the topology asks for."""
    topology, nodes = subject.topology, subject.facts.nodes
    if topology.device != "cuda" or _enough(topology, nodes):
        return
    servers = ", ".join(_server_words(topology, role) for role in WORKER_ROLES)
    have = ", ".join(f"{count} x {gpus}" for gpus, count in Counter(n.gpus for n in nodes).items())
    better = _more_nodes(topology) if nodes == meant_nodes(topology) else None
    yield finding(
        "gpus",
        "warning",
        "device" if better is None else "nodes.count",
        f"the topology needs {servers}; the nodes at hand have {have}; `up` refuses until they are "
        "there.",
        fix="device: cpu" if better is None else yaml_text(better),
    )


@rule(
    "nodes",
    "SGLang numbers the GPUs of each part of a server from 0, as if it had a node of its own "
    "(sglang 0.5.23 managers/data_parallel_controller.py)",
)
def nodes(subject: Subject) -> Iterable[Finding]:
    """There are as many nodes as a server spans."""
    topology, count = subject.topology, len(subject.facts.nodes)
    for role in WORKER_ROLES:
        worker = topology.worker(role)
        if worker.nodes <= count:
            continue
        meant = subject.facts.nodes == meant_nodes(topology) and worker.nodes <= MOST_NODES
        fewer = max(n for n in range(1, count + 1) if ranks(worker) % n == 0)
        yield finding(
            "nodes",
            "error",
            f"{role}.nodes",
            f"a {role} server spans {worker.nodes} nodes, and there are {count}.",
            fix=yaml_text(
                {"nodes": {"count": worker.nodes}} if meant else {role.value: {"nodes": fewer}}
            ),
        )


def _enough(topology: Topology, nodes: tuple[Node, ...]) -> bool:
    used = Counter[int]()
    for spot in place(topology, nodes):
        used[spot.node] += spot.gpus
    return all(used[i] <= node.gpus for i, node in enumerate(nodes))


def _server_words(topology: Topology, role: Role) -> str:
    """How many servers, nodes of one, and GPUs of each of those nodes."""
    worker = topology.worker(role)
    part = -(-ranks(worker) // worker.nodes)
    spans = f" on each of {worker.nodes} nodes" if worker.nodes > 1 else ""
    return f"{worker.workers} x {part} GPUs{spans} for {role}"


def _shares(worker: Worker, nodes: int, gpus: int) -> bool:
    """Whether a server can be cut into equal parts for nodes with so many GPUs."""
    return ranks(worker) % nodes == 0 and ranks(worker) // nodes <= gpus


def _more_nodes(topology: Topology) -> dict[str, Any] | None:
    """Nodes, and servers that span them, with which there are GPUs for all."""
    meant = topology.nodes
    assert meant is not None
    better: dict[str, Any] = {"nodes": {}}
    if not meant.gpus:
        better["nodes"]["gpus"] = 8
    size = meant.gpus or 8
    for role in WORKER_ROLES:
        worker = topology.worker(role)
        spans = worker.nodes
        if -(-ranks(worker) // spans) > size:
            wider = range(spans, MOST_NODES_A_SERVER + 1)
            spans = next((n for n in wider if _shares(worker, n, size)), 0)
            if not spans:
                return None
        if spans != worker.nodes:
            better[role.value] = {"nodes": spans}
            topology = topology.model_copy(
                update={role.value: worker.model_copy(update={"nodes": spans})}
            )
    workers = [topology.worker(role) for role in WORKER_ROLES]
    least = -(-sum(worker.workers * ranks(worker) for worker in workers) // size)
    most = sum(worker.workers * worker.nodes for worker in workers)
    for count in sorted({least, least + 1, most}):
        if count <= MOST_NODES and _enough(topology, (Node(gpus=size),) * count):
            return better | {"nodes": better["nodes"] | {"count": count}}
    return None
