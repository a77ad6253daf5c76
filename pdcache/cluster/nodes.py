"""The nodes of a Ray cluster as facts for a plan."""

from __future__ import annotations

from typing import Any

from pdcache.topology.facts import Node, local_node


def ray_nodes(ray: Any) -> tuple[Node, ...]:
    """Living nodes, the head first; a cluster of this machine alone is addressed by loopback."""
    rows = [row for row in ray.nodes() if row["Alive"]]
    rows.sort(key=lambda row: "node:__internal_head__" not in row["Resources"])
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
