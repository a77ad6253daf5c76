"""Mooncake as L3: its processes, how SGLang reaches it, and how its keys are told apart.

Facts: mooncake-transfer-engine 0.3.13 (flags, ports, TTLs) and sglang 0.5.23
``mem_cache/storage/mooncake_store/mooncake_store.py`` (configuration keys, object keys).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pdcache.topology.schema import Topology
from pdcache.topology.settings import KV_ARGS, Settings

CLIENT_ENV = {
    # SGLang would otherwise freeze for 90 s on a refused and 603 s on a silent master.
    "MC_STORE_CLIENT_SETUP_RETRIES": "1",
    "MC_RPC_TIMEOUT_MS": "5000",
    "MC_RPC_CONNECT_TIMEOUT_MS": "5000",
    # A stopped segment owner is given up after this instead of after 30 s.
    "MC_TCP_PROGRESS_TIMEOUT_SEC": "3",
    "MC_LOG_LEVEL": "ERROR",
}


@dataclass(frozen=True)
class Master:
    """Where a Mooncake master answers: RPC for clients, HTTP for health and metrics."""

    address: str
    rpc_port: int
    metrics_port: int

    @property
    def rpc(self) -> str:
        """``host:port`` for Mooncake clients."""
        return f"{self.address}:{self.rpc_port}"

    @property
    def url(self) -> str:
        """Base URL of ``/health``, ``/metrics``, ``/get_all_keys``."""
        return f"http://{self.address}:{self.metrics_port}"


def master_argv(binary: str, master: Master) -> tuple[str, ...]:
    """Command line of the master; it keeps no data itself."""
    return (
        binary,
        f"--rpc_address={master.address}",
        f"--rpc_port={master.rpc_port}",
        f"--metrics_host={master.address}",
        f"--metrics_port={master.metrics_port}",
        "--rpc_thread_num=4",
        "--enable_http_metadata_server=false",
        # A key whose writer died mid-write is writable again after 3 s instead of 30 s.
        "--put_start_discard_timeout_sec=3",
        "--logtostderr",
    )


def holder_argv(
    binary: str, master: Master, address: str, port: int, topology: Topology
) -> tuple[str, ...]:
    """Command line of a process that only holds a segment, so that KV outlives any worker."""
    return (
        binary,
        f"--host={address}",
        f"--port={port}",
        f"--global_segment_size={int(topology.store.segment_gb * 1e9)} B",
        f"--master_server_address={master.rpc}",
        "--metadata_server=P2PHANDSHAKE",
        f"--protocol={protocol(topology)}",
        f"--device_names={topology.store.device}",
    )


def extra_config(
    topology: Topology, master: Master, address: str, namespace: str, options: Mapping[str, Any]
) -> str:
    """``--hicache-storage-backend-extra-config`` as inline JSON.

    Inline because decode offload parses it with plain ``json.loads`` (sglang 0.5.23
    ``disaggregation/decode_kvcache_offload_manager.py:71``).
    """
    return json.dumps(
        {
            "master_server_address": master.rpc,
            "master_metrics_port": master.metrics_port,
            "metadata_server": "P2PHANDSHAKE",
            "local_hostname": address,
            "protocol": protocol(topology),
            "device_name": topology.store.device,
            "global_segment_size": 0,
            "check_server": False,
            "extra_backend_tag": namespace,
            **options,
        },
        separators=(",", ":"),
    )


def protocol(topology: Topology) -> str:
    """RDMA on CUDA machines unless said otherwise; a CPU machine speaks TCP."""
    return topology.store.protocol or ("tcp" if topology.device == "cpu" else "rdma")


def namespace(
    topology: Topology, settings: Settings, weights_digest: str, *, is_mla: bool = False
) -> str:
    """Prefix of every key, from all that shapes the bytes of a page.

    Under MLA a page is the same on every rank, so the TP size is left out. Two workers that would
    read each other's bytes wrongly get different namespaces, so the worst that can happen between
    them is a miss.
    """
    if topology.store.namespace is not None:
        return topology.store.namespace
    keys = ["dtype", "page_size", "hicache_mem_layout", "hicache_io_backend"]
    keys += [] if is_mla else ["tp_size"]
    shape = {key: settings[key].value for key in keys}
    shape |= {key: settings[key].value for key in KV_ARGS if key in settings}
    text = json.dumps([weights_digest, shape], sort_keys=True)
    return "kv" + hashlib.sha256(text.encode()).hexdigest()[:12]


def key_parts(namespace_: str, served_name: str, tp: int, is_mla: bool) -> tuple[str, list[str]]:
    """What stands before and after a page hash in the object keys of one page.

    Source: sglang 0.5.23 ``mooncake_store.py:456-474, 1313-1335``.
    """
    prefix = f"{namespace_}_{served_name.replace('/', '-')}_"
    if is_mla:
        return prefix, ["__k"]
    return prefix, [f"_{rank}_{half}" for rank in range(tp) for half in ("k", "v")]
