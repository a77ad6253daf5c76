"""Mooncake: command lines, what SGLang is told, and the namespace of the keys."""

from __future__ import annotations

import json

import pytest
from golden.plans import shipped

from pdcache.store.mooncake import (
    CLIENT_ENV,
    Master,
    extra_config,
    holder_argv,
    key_parts,
    master_argv,
    namespace,
    protocol,
)
from pdcache.topology import Role
from pdcache.topology.settings import resolve, role_settings

MASTER = Master("10.0.0.1", 20000, 20001)


def test_a_master_listens_on_its_nodes_address_only() -> None:
    assert master_argv("/bin/mooncake_master", MASTER) == (
        "/bin/mooncake_master",
        "--rpc_address=10.0.0.1",
        "--rpc_port=20000",
        "--metrics_host=10.0.0.1",
        "--metrics_port=20001",
        "--rpc_thread_num=4",
        "--enable_http_metadata_server=false",
        "--put_start_discard_timeout_sec=3",
        "--logtostderr",
    )
    assert MASTER.rpc == "10.0.0.1:20000"
    assert MASTER.url == "http://10.0.0.1:20001"


def test_a_holder_gives_its_segment_in_bytes_to_that_master() -> None:
    topology = shipped("full_offload", "store.segment_gb=0.5", "store.device=mlx5_0")
    assert holder_argv("holder", MASTER, "10.0.0.2", 20002, topology) == (
        "holder",
        "--host=10.0.0.2",
        "--port=20002",
        "--global_segment_size=500000000 B",
        "--master_server_address=10.0.0.1:20000",
        "--metadata_server=P2PHANDSHAKE",
        "--protocol=tcp",
        "--device_names=mlx5_0",
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "tcp"),
        (["device=cuda"], "rdma"),
        (["device=cuda", "store.protocol=tcp"], "tcp"),
        (["store.protocol=rdma"], "rdma"),
    ],
)
def test_a_cpu_speaks_tcp_and_a_gpu_rdma_unless_said_otherwise(
    overrides: list[str], expected: str
) -> None:
    topology = shipped("full_offload", *overrides)
    assert protocol(topology) == expected
    assert f"--protocol={expected}" in holder_argv("holder", MASTER, "10.0.0.2", 1, topology)
    assert json.loads(extra_config(topology, MASTER, "a", "n", {}))["protocol"] == expected


def test_sglang_gets_inline_json_with_the_master_and_no_segment_of_its_own() -> None:
    text = extra_config(
        shipped("full_offload"), MASTER, "10.0.0.3", "kv1", {"prefetch_threshold": 64}
    )
    assert not text.startswith("@")
    assert json.loads(text) == {
        "master_server_address": "10.0.0.1:20000",
        "master_metrics_port": 20001,
        "metadata_server": "P2PHANDSHAKE",
        "local_hostname": "10.0.0.3",
        "protocol": "tcp",
        "device_name": "",
        "global_segment_size": 0,
        "check_server": False,
        "extra_backend_tag": "kv1",
        "prefetch_threshold": 64,
    }


def test_a_client_gives_up_on_a_bad_master_soon() -> None:
    assert CLIENT_ENV["MC_STORE_CLIENT_SETUP_RETRIES"] == "1"
    assert int(CLIENT_ENV["MC_RPC_CONNECT_TIMEOUT_MS"]) <= 5000


def name_of(*overrides: str, weights: str = "w", role: Role = Role.PREFILL) -> str:
    topology = shipped("full_offload", *overrides)
    return namespace(topology, resolve(role_settings(topology, role)), weights)


@pytest.mark.parametrize(
    "override",
    [
        "model.dtype=bfloat16",
        "page_size=32",
        "prefill.tp=2",
        "hicache.layout=page_head",
        "hicache.io_backend=kernel_ascend",
    ],
)
def test_what_shapes_the_bytes_of_a_page_makes_another_namespace(override: str) -> None:
    assert name_of(override) != name_of()


def test_other_weights_make_another_namespace() -> None:
    assert name_of(weights="other") != name_of()


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "gateway.port=9000",
        "prefill.workers=1",
        "hicache.ratio=3.0",
        "hicache.prefetch_policy=timeout",
        "prefill.max_total_tokens=4096",
        "store.segment_gb=1",
        "model.served_name=mine",
        "model.context_length=2048",
        "hicache.layout=page_first",  # io direct makes it page_first_direct: the same bytes
    ],
)
def test_what_does_not_shape_the_bytes_keeps_the_namespace(override: str) -> None:
    assert name_of(override) == name_of()


def test_both_roles_of_full_offload_have_one_namespace() -> None:
    assert name_of(role=Role.DECODE) == name_of(role=Role.PREFILL)


def test_a_namespace_of_the_users_is_taken_as_it_is() -> None:
    assert name_of("store.namespace=mine", "page_size=32") == "mine"


def test_a_namespace_fits_into_a_key() -> None:
    assert name_of().isalnum()


def test_keys_name_rank_and_half_and_no_slash() -> None:
    assert key_parts("kv1", "org/model", 2, False) == (
        "kv1_org-model_",
        ["_0_k", "_0_v", "_1_k", "_1_v"],
    )


def test_an_mla_page_is_one_object() -> None:
    assert key_parts("kv1", "model", 4, True) == ("kv1_model_", ["__k"])
