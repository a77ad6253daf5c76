"""A prefill server of two ranks on two nodes, beside a decode of one rank, on one store.

Both nodes are this machine. Heads are objects of their own (page_head, tp_lcm_size), so that ranks
of unequal TP read each other's pages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cluster_tools import SMALL, Shell, cluster, free_port, kill, wait_for

SETS = [
    "prefill.tp=2", "prefill.nodes=2", "decode.tp=1", "store.tp_lcm_size=2",
    "hicache.layout=page_head", "hicache.io_backend=kernel",
]  # fmt: skip


def test_unequal_ranks_share_pages_and_a_server_that_lost_a_node_comes_back_whole(
    tmp_path: Path,
) -> None:
    shell = Shell(tmp_path / "home")
    sets = [word for one in (*SETS, f"gateway.port={free_port()}") for word in ("--set", one)]
    two_nodes_here = ["--skip-check", "nodes"]
    file = "topologies/full_offload.yaml"
    with cluster(shell, file, *SMALL, *sets, *two_nodes_here) as up:
        assert {one["name"] for one in up["workers"]} >= {"prefill-0", "prefill-0-rank-1"}
        assert all(canary["proved"] for canary in up["proof"]["canaries"])
        rank = process(shell, "prefill-0-rank-1")
        decode = process(shell, "decode-0")
        kill(rank["pid"])
        wait_for(
            lambda: all(
                process(shell, name)["incarnation"] == 2
                and process(shell, name)["state"] == "HEALTHY"
                for name in ("prefill-0", "prefill-0-rank-1")
            ),
            "both parts of the server to be back",
            limit_s=150,
        )
        assert process(shell, "decode-0")["pid"] == decode["pid"]
        assert shell.json("verify", up["name"])["proved"] is True


def process(shell: Shell, name: str) -> dict[str, Any]:
    """One process as `status` shows it."""
    workers: list[dict[str, Any]] = shell.json("status")["workers"]
    return next(one for one in workers if one["name"] == name)
