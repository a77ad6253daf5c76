"""The nodes of a Ray cluster as facts for a plan."""

from __future__ import annotations

from typing import Any

from pdcache.errors import ClusterError
from pdcache.plan.process import Process
from pdcache.topology.facts import Node, local_node


def ray_nodes(ray: Any) -> tuple[Node, ...]:
    """Living nodes, the head first; a cluster of this machine alone is addressed by loopback."""
    rows = [row for row in ray.nodes() if row["Alive"]]
    rows.sort(
        key=lambda row: (
            "node:__internal_head__" not in row["Resources"],
            row["NodeManagerAddress"],
        )
    )
    local = ray.util.get_node_ip_address()
    if len(rows) == 1 and rows[0]["NodeManagerAddress"] == local:
        here = local_node()
        return (
            Node(
                memory_bytes=here.memory_bytes, cpus=here.cpus,
                gpus=int(rows[0]["Resources"].get("GPU", 0)), ray_id=rows[0]["NodeID"],
            ),
        )  # fmt: skip
    return tuple(
        Node(
            address=row["NodeManagerAddress"],
            memory_bytes=int(
                row["Resources"].get("memory", 0) + row["Resources"].get("object_store_memory", 0)
            ),
            cpus=int(row["Resources"].get("CPU", 0)),
            gpus=int(row["Resources"].get("GPU", 0)),
            ray_id=row["NodeID"],
        )
        for row in rows
    )


def living_node(process: Process, rows: list[dict[str, Any]]) -> str:
    """Ray's id of the node that a process belongs on: its own, or one that came at its address.

    Raises:
        ClusterError: no living node of the Ray cluster is there.
    """
    alive = [row for row in rows if row["Alive"]]
    if any(row["NodeID"] == process.ray_id for row in alive):
        return str(process.ray_id)
    for row in alive:
        if row["NodeManagerAddress"] == process.address:
            return str(row["NodeID"])
    raise ClusterError(
        f"its node {process.address} is not in the Ray cluster.",
        where=process.name,
        remedy="Start Ray on that node again; it is taken up by itself.",
    )
