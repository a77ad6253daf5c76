"""Rules on RDMA devices and on how KV travels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from pdcache.checks.finding import Finding
from pdcache.checks.rule import Subject, finding, rule, yaml_at, yaml_text
from pdcache.store.mooncake_commands import protocol
from pdcache.topology.facts import Node
from pdcache.topology.placement import place
from pdcache.topology.schema import WORKER_ROLES, Role
from pdcache.topology.stores import MooncakeStore


@rule(
    "ib-device",
    "SGLang does not start with a device that is not in /sys/class/infiniband "
    "(sglang 0.5.23 arg_groups/validation_hook.py:489-562)",
)
def ib_device(subject: Subject) -> Iterable[Finding]:
    """Every RDMA device that is named exists on every node that uses it."""
    transfer, store, nodes = subject.topology.transfer, subject.topology.store, _known(subject)
    named: list[tuple[str, str, dict[str, Any]]] = []
    if transfer.backend == "mooncake" and transfer.ib_device is not None:
        tcp = {"transfer": {"backend": "mooncake_tcp"}}
        named.append(("transfer.ib_device", transfer.ib_device, tcp))
    # Where a node has none at all Mooncake runs as TCP: that is for the rule `rdma`.
    if _over_rdma(subject) and isinstance(store, MooncakeStore) and all(n.rdma for n in nodes):
        named.append(("store.device", store.device, {"store": {"protocol": "tcp"}}))
    everywhere = [name for name in (nodes[0].rdma or ()) if _on_all(nodes, name)] if nodes else []
    for path, text, tcp in named:
        missing = [name for name in _devices(text) if not _on_all(nodes, name)]
        if missing:
            node = next(node for node in nodes if not _on_all([node], missing[0]))
            yield finding(
                "ib-device",
                "error",
                path,
                f"node {node.address} has no RDMA device {missing[0]}; it has "
                f"{', '.join(node.rdma or ()) or 'none'}.",
                fix=yaml_at(path, ",".join(everywhere)) if everywhere else yaml_text(tcp),
            )


@rule(
    "rdma",
    "Mooncake runs as TCP where there is no RDMA, and says nothing (mooncake 0.3.13; sglang 0.5.23 "
    "arg_groups/pd_disaggregation_hook.py:30-52)",
)
def rdma(subject: Subject) -> Iterable[Finding]:
    """RDMA is asked for where the nodes have it."""
    topology = subject.topology
    without = [node.address for node in _known(subject) if not node.rdma]
    paths = []
    if _over_rdma(subject):
        paths.append(("store.protocol", "tcp"))
    # With a device that is not there no server starts: that is for the rule `ib-device`.
    transfer = topology.transfer
    if topology.device == "cuda" and transfer.backend == "mooncake" and not transfer.ib_device:
        paths.append(("transfer.backend", "mooncake_tcp"))
    for path, better in paths if without else ():
        yield finding(
            "rdma",
            "warning",
            path,
            f"{', '.join(without[:3])} has no RDMA device, and Mooncake runs as TCP there.",
            better,
        )


@rule(
    "transfer-backend",
    "the CPU lane sends KV with Mooncake over TCP only, and ascend needs Ascend NPUs "
    "(sglang 0.5.23 disaggregation/ascend)",
)
def transfer_backend(subject: Subject) -> Iterable[Finding]:
    """The transfer backend is one for the device."""
    backend, device = subject.topology.transfer.backend, subject.topology.device
    if backend == "ascend" or (device == "cpu" and not backend.startswith("mooncake")):
        yield finding(
            "transfer-backend",
            "error",
            "transfer.backend",
            f"{backend} cannot send KV from prefill to decode on device {device}.",
            "mooncake",
        )


def _known(subject: Subject) -> list[Node]:
    """Nodes with workers or holders whose RDMA devices are known."""
    nodes = subject.facts.nodes
    used = {
        spot.node
        for spot in place(subject.topology, nodes)
        if spot.role in (*WORKER_ROLES, Role.STORE)
    }
    return [node for i, node in enumerate(nodes) if i in used and node.rdma is not None]


def _over_rdma(subject: Subject) -> bool:
    store = subject.topology.store
    return isinstance(store, MooncakeStore) and protocol(store, subject.topology.device) == "rdma"


def _on_all(nodes: Iterable[Node], device: str) -> bool:
    return all(device in (node.rdma or ()) for node in nodes)


def _devices(text: str) -> Iterator[str]:
    """Device names of a list, or of JSON from a GPU or rank to a list; none of a file's."""
    if text.strip().endswith(".json"):
        return
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    lists = data.values() if isinstance(data, dict) else [text]
    for names in lists:
        yield from (name.strip() for name in str(names).split(",") if name.strip())
