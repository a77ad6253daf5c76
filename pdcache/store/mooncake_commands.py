"""Command lines and environment of Mooncake's and etcd's programs."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from pdcache.topology.stores import MooncakeStore

SSD_CLIENT_TTL_S = 3
CLIENT_TTL_S = 5
CLIENT_ENV = {
    # SGLang would otherwise freeze for 90 s on a refused and 603 s on a silent master.
    "MC_STORE_CLIENT_SETUP_RETRIES": "1",
    "MC_RPC_TIMEOUT_MS": "1000",
    "MC_RPC_CONNECT_TIMEOUT_MS": "1000",
    # A stopped segment owner is given up after this instead of after 30 s.
    "MC_TCP_PROGRESS_TIMEOUT_SEC": "5",
    "MC_LOG_LEVEL": "ERROR",
}


SSD_MASTER_FLAGS = (
    "--enable_offload=true",
    # Only what leaves memory is written; what was accepted is never lost.
    "--offload_on_evict=true",
    # Pages under lease cannot leave: with the default of 10 s a burst finds memory full.
    "--default_kv_lease_ttl=1000",
    "--eviction_high_watermark_ratio=0.6",
    "--eviction_ratio=0.2",
    # A holder that is started again gets its pages on disk back once it was given up.
    f"--client_ttl={SSD_CLIENT_TTL_S}",
)
MIN_BUCKET_BYTES, MAX_BUCKET_BYTES = 8 << 20, 256 << 20


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
        """Base URL of ``/health``, ``/metrics``, ``/batch_query_keys``."""
        return f"http://{self.address}:{self.metrics_port}"


def master_argv(
    binary: str,
    master: Master,
    store: MooncakeStore,
    *,
    etcd: str | None = None,
    cluster_id: str = "",
    quota_file: str | None = None,
) -> tuple[str, ...]:
    """Command line of a master; it keeps no pages itself.

    Args:
        etcd: ``host:port``; given, the master is one of several that elect a leader there, and its
            operation log keeps the keys over a failover.
    """
    argv = [
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
    ]
    if etcd is not None:
        argv += [
            "--enable_ha=true",
            f"--etcd_endpoints={etcd}",
            f"--cluster_id={cluster_id}",
            "--enable_oplog=true",
        ]
    if store.ssd is not None:
        argv += SSD_MASTER_FLAGS
    else:
        # Until then a dead holder's segment is given out for writes, and they fail.
        argv.append(f"--client_ttl={CLIENT_TTL_S}")
    if quota_file is not None:
        argv += [
            "--enable_multi_tenants=true",
            "--tenant_quota_connector_type=file",
            f"--tenant_quota_connector_uri={quota_file}",
        ]
    return tuple(argv)


def quota_text(store: MooncakeStore) -> str:
    """The masters' quota file; a tenant that is not in it can store nothing."""
    quota = f"{int((store.tenant_quota_gb or 0) * 1e9)}B"
    tenants = [{"name": store.tenant, "quota": quota}]
    return yaml.safe_dump({"version": 1, "tenants": tenants}, sort_keys=False)


def holder_argv(
    binary: str, master_address: str, address: str, port: int, store: MooncakeStore, device: str
) -> tuple[str, ...]:
    """Command line of a process that only holds a segment, so that KV outlives any worker."""
    argv = [
        binary,
        f"--host={address}",
        f"--port={port}",
        f"--global_segment_size={int(store.segment_gb * 1e9)} B",
        f"--master_server_address={master_address}",
        "--metadata_server=P2PHANDSHAKE",
        f"--protocol={protocol(store, device)}",
        f"--device_names={store.device}",
    ]
    if store.ssd is not None:
        argv.append("--enable_offload=true")
    return tuple(argv)


def holder_environment(store: MooncakeStore, name: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Environment of a holder, and the folders it needs."""
    if store.ssd is None:
        return {}, ()
    folder = f"{store.ssd.path.rstrip('/')}/{name}"
    # A bucket is written when it is full: one of the default 256 MB would never be on a small
    # segment, and memory would stay full for ever.
    bucket = min(MAX_BUCKET_BYTES, max(MIN_BUCKET_BYTES, int(store.segment_gb * 1e9) // 32))
    return {
        "MOONCAKE_OFFLOAD_FILE_STORAGE_PATH": folder,
        "MOONCAKE_OFFLOAD_TOTAL_SIZE_LIMIT_BYTES": str(int(store.ssd.size_gb * 1e9)),
        "MOONCAKE_OFFLOAD_BUCKET_SIZE_LIMIT_BYTES": str(bucket),
        "MOONCAKE_OFFLOAD_BUCKET_KEYS_LIMIT": "32",
        "MOONCAKE_OFFLOAD_LOCAL_BUFFER_SIZE_BYTES": str(8 * bucket),
        "MOONCAKE_OFFLOAD_HEARTBEAT_INTERVAL_SECONDS": "1",
    }, (folder,)


def etcd_argv(
    binary: str, host: str, client_port: int, peer_port: int, folder: str
) -> tuple[str, ...]:
    """Command line of a single etcd that remembers which master leads, and their log."""
    client, peer = f"http://{host}:{client_port}", f"http://{host}:{peer_port}"
    return (
        binary,
        "--name=pdcache",
        f"--data-dir={folder}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=pdcache={peer}",
        "--logger=zap",
        "--log-level=warn",
    )


def protocol(store: MooncakeStore, device: str) -> str:
    """RDMA on CUDA machines unless said otherwise; a CPU machine speaks TCP."""
    return store.protocol or ("tcp" if device == "cpu" else "rdma")
