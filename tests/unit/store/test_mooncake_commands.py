"""Command lines and environment of Mooncake's and etcd's programs."""

from __future__ import annotations

import pytest
import yaml

from pdcache.store.mooncake_commands import (
    CLIENT_ENV,
    SSD_MASTER_FLAGS,
    Master,
    etcd_argv,
    holder_argv,
    holder_environment,
    master_argv,
    protocol,
    quota_text,
)
from pdcache.topology.stores import MooncakeStore

MASTER = Master("10.0.0.1", 20000, 20001)
SSD = MooncakeStore(ssd={"path": "/ssd/", "size_gb": 1.5})


def test_a_master_listens_on_its_nodes_address_only() -> None:
    assert master_argv("/bin/mooncake_master", MASTER, MooncakeStore()) == (
        "/bin/mooncake_master",
        "--rpc_address=10.0.0.1",
        "--rpc_port=20000",
        "--metrics_host=10.0.0.1",
        "--metrics_port=20001",
        "--rpc_thread_num=4",
        "--enable_http_metadata_server=false",
        "--put_start_discard_timeout_sec=3",
        "--logtostderr",
        "--client_ttl=5",
    )
    assert MASTER.rpc == "10.0.0.1:20000"
    assert MASTER.url == "http://10.0.0.1:20001"


def added(store: MooncakeStore | None = None, **more: str) -> set[str]:
    """What a setting adds to the command line of a master."""
    plain = master_argv("master", MASTER, MooncakeStore())
    return set(master_argv("master", MASTER, store or MooncakeStore(), **more)) - set(plain)


def test_one_of_several_masters_is_elected_in_etcd_and_keeps_the_keys_in_a_log() -> None:
    assert added(etcd="10.0.0.1:2379", cluster_id="small") == {
        "--enable_ha=true",
        "--etcd_endpoints=10.0.0.1:2379",
        "--cluster_id=small",
        "--enable_oplog=true",
    }


def test_a_master_is_told_that_its_holders_have_disks() -> None:
    assert added(SSD) == set(SSD_MASTER_FLAGS)
    assert {"--enable_offload=true", "--offload_on_evict=true"} < set(SSD_MASTER_FLAGS)


def test_a_master_with_tenants_reads_their_quotas_from_a_file() -> None:
    assert added(quota_file="/f/tenants.yaml") == {
        "--enable_multi_tenants=true",
        "--tenant_quota_connector_type=file",
        "--tenant_quota_connector_uri=/f/tenants.yaml",
    }
    quotas = yaml.safe_load(quota_text(MooncakeStore(tenant="team-a", tenant_quota_gb=0.5)))
    assert quotas == {"version": 1, "tenants": [{"name": "team-a", "quota": "500000000B"}]}


def test_a_holder_gives_its_segment_in_bytes_to_that_master() -> None:
    store = MooncakeStore(segment_gb=0.5, device="mlx5_0")
    assert holder_argv("holder", MASTER.rpc, "10.0.0.2", 20002, store, "cpu") == (
        "holder",
        "--host=10.0.0.2",
        "--port=20002",
        "--global_segment_size=500000000 B",
        "--master_server_address=10.0.0.1:20000",
        "--metadata_server=P2PHANDSHAKE",
        "--protocol=tcp",
        "--device_names=mlx5_0",
    )
    assert holder_environment(store, "store-holder-0") == ({}, ())


def test_a_holder_with_a_disk_has_a_folder_and_a_limit_of_its_own() -> None:
    plain = holder_argv("holder", MASTER.rpc, "10.0.0.2", 20002, MooncakeStore(), "cpu")
    on_disk = holder_argv("holder", MASTER.rpc, "10.0.0.2", 20002, SSD, "cpu")
    assert set(on_disk) - set(plain) == {"--enable_offload=true"}
    env, folders = holder_environment(SSD, "store-holder-1")
    assert folders == ("/ssd/store-holder-1",)
    assert env["MOONCAKE_OFFLOAD_FILE_STORAGE_PATH"] == "/ssd/store-holder-1"
    assert env["MOONCAKE_OFFLOAD_TOTAL_SIZE_LIMIT_BYTES"] == "1500000000"


@pytest.mark.parametrize(
    ("segment_gb", "bucket"), [(0.064, 8 << 20), (1, 31_250_000), (100, 256 << 20)]
)
def test_a_bucket_on_disk_is_small_against_the_segment_so_that_it_fills_up(
    segment_gb: float, bucket: int
) -> None:
    store = MooncakeStore(segment_gb=segment_gb, ssd={"path": "/ssd", "size_gb": 1})
    env, _ = holder_environment(store, "store-holder-0")
    assert env["MOONCAKE_OFFLOAD_BUCKET_SIZE_LIMIT_BYTES"] == str(bucket)


def test_etcd_keeps_its_data_in_the_clusters_folder_and_is_a_cluster_of_one() -> None:
    argv = etcd_argv("/bin/etcd", "10.0.0.1", 20004, 20005, "/f/etcd")
    assert argv[0] == "/bin/etcd"
    assert {
        "--data-dir=/f/etcd",
        "--listen-client-urls=http://10.0.0.1:20004",
        "--advertise-client-urls=http://10.0.0.1:20004",
        "--listen-peer-urls=http://10.0.0.1:20005",
        "--initial-cluster=pdcache=http://10.0.0.1:20005",
        "--name=pdcache",
    } <= set(argv)


@pytest.mark.parametrize(
    ("given", "device", "expected"),
    [
        (None, "cpu", "tcp"),
        (None, "cuda", "rdma"),
        ("tcp", "cuda", "tcp"),
        ("rdma", "cpu", "rdma"),
    ],
)
def test_a_cpu_speaks_tcp_and_a_gpu_rdma_unless_said_otherwise(
    given: str | None, device: str, expected: str
) -> None:
    store = MooncakeStore.model_validate({"protocol": given})
    assert protocol(store, device) == expected
    argv = holder_argv("holder", MASTER.rpc, "10.0.0.2", 1, store, device)
    assert f"--protocol={expected}" in argv


def test_a_client_gives_up_on_a_bad_master_soon() -> None:
    assert CLIENT_ENV["MC_STORE_CLIENT_SETUP_RETRIES"] == "1"
    assert int(CLIENT_ENV["MC_RPC_CONNECT_TIMEOUT_MS"]) <= 5000
