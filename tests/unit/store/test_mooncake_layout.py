"""Mooncake laid out: its processes, what SGLang is told, and the object keys of a page."""

from __future__ import annotations

import pytest
from grounds import FOLDER, CountingPorts, ground_of, layout_of, objects_of, topology_of

from pdcache.store.backend import Ground, Service
from pdcache.store.mooncake_commands import CLIENT_ENV
from pdcache.topology import Role
from pdcache.topology.placement import store_places

THREE = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
HA = "{ha: {masters: 2}, holders: 1}"


def services(ground: Ground) -> dict[str, Service]:
    """Every process of the store by its name."""
    layout = layout_of(ground)
    places = store_places(ground.topology, len(ground.addresses))
    return {place.name: layout.service(place) for place in places}


def options(store: str, *, device: str = "cpu") -> dict[str, object]:
    access = layout_of(ground_of(store, device=device)).worker("10.0.0.3", Role.DECODE, "kv1")
    return dict(access.options)


def test_sglang_is_told_the_master_and_gives_no_segment_of_its_own() -> None:
    assert options("{}") == {
        "master_server_address": "10.0.0.1:20000",
        "master_metrics_port": 20001,
        "metadata_server": "P2PHANDSHAKE",
        "local_hostname": "10.0.0.3",
        "protocol": "tcp",
        "device_name": "",
        "global_segment_size": 0,
        "check_server": False,
        "extra_backend_tag": "kv1",
    }
    assert options("{}", device="cuda")["protocol"] == "rdma"


@pytest.mark.parametrize(
    ("store", "key", "value"),
    [
        ("{worker_segment_gb: 1.5}", "global_segment_size", 1_500_000_000),
        ("{tenant: team-a, tenant_quota_gb: 1}", "tenant_id", "team-a"),
        ("{tp_lcm_size: 8}", "tp_lcm_size", 8),
        ("{device: mlx5_0}", "device_name", "mlx5_0"),
        ("{master: '10.9.9.9:50052', metrics_port: 9004}", "master_server_address",
         "10.9.9.9:50052"),
        ("{master: '10.9.9.9:50052', metrics_port: 9004}", "master_metrics_port", 9004),
        ("{master: '10.9.9.9:50052'}", "master_metrics_port", 9003),
        (HA, "master_server_address", "etcd://10.0.0.1:20004"),
        ("{ha: {masters: 2, etcd: '10.9.9.9:2379'}}", "master_server_address",
         "etcd://10.9.9.9:2379"),
    ],
)  # fmt: skip
def test_a_key_of_the_store_reaches_sglang(store: str, key: str, value: object) -> None:
    assert options(store)[key] == value


def test_a_worker_gives_up_on_a_bad_master_soon_and_makes_nothing() -> None:
    access = layout_of(ground_of("{}")).worker("10.0.0.3", Role.PREFILL, "kv1")
    assert access.env == CLIENT_ENV | {"MOONCAKE_LOCAL_HOSTNAME": "10.0.0.3"}
    assert (dict(access.files), access.folders) == ({}, ())


def test_a_master_starts_first_and_its_holders_after_it() -> None:
    found = services(ground_of("{}", addresses=THREE))
    assert {name: service.wave for name, service in found.items()} == {
        "store-master": 0,
        "store-holder-0": 2,
        "store-holder-1": 2,
        "store-holder-2": 2,
    }
    assert found["store-master"].ports == {"rpc": 20000, "metrics": 20001}
    assert (found["store-master"].url, found["store-master"].health_path) == (
        "http://10.0.0.1:20001",
        "/health",
    )
    for index, address in enumerate(THREE):
        holder = found[f"store-holder-{index}"]
        assert f"--host={address}" in holder.argv
        assert "--master_server_address=10.0.0.1:20000" in holder.argv
        assert (holder.url, holder.health_port) == (None, holder.ports["rpc"])


def test_several_masters_stand_on_several_nodes_after_their_etcd() -> None:
    found = services(ground_of(HA, addresses=THREE))
    assert {name: service.wave for name, service in found.items()} == {
        "store-etcd": 0,
        "store-master-0": 1,
        "store-master-1": 1,
        "store-holder-0": 2,
    }
    assert [found[f"store-master-{i}"].url for i in range(2)] == [
        "http://10.0.0.1:20001",
        "http://10.0.0.2:20003",
    ]
    for i in range(2):
        argv = found[f"store-master-{i}"].argv
        assert {"--etcd_endpoints=10.0.0.1:20004", "--cluster_id=small"} <= set(argv)
    etcd = found["store-etcd"]
    assert etcd.ports == {"client": 20004, "peer": 20005}
    assert etcd.url == "http://10.0.0.1:20004"
    assert etcd.folders == (f"{FOLDER}/etcd",)
    assert "--master_server_address=etcd://10.0.0.1:20004" in found["store-holder-0"].argv


def test_a_given_etcd_is_used_and_not_started() -> None:
    found = services(ground_of("{ha: {etcd: '10.9.9.9:2379'}, holders: 1}"))
    assert list(found) == ["store-master-0", "store-master-1", "store-holder-0"]
    assert "--etcd_endpoints=10.9.9.9:2379" in found["store-master-1"].argv


def test_given_ports_count_up_over_the_masters() -> None:
    ground = ground_of("{ha: {masters: 3}, port: 50051, metrics_port: 9003, holders: 1}")
    found = services(ground)
    assert [found[f"store-master-{i}"].ports for i in range(3)] == [
        {"rpc": 50051 + i, "metrics": 9003 + i} for i in range(3)
    ]
    assert isinstance(ground.ports, CountingPorts)
    assert {key for key, _ in ground.ports.by_key} == {"store.port", "store.metrics_port"}


def test_the_quotas_of_tenants_are_written_where_the_master_starts() -> None:
    master = services(ground_of("{tenant: team-a, tenant_quota_gb: 1}"))["store-master"]
    assert list(master.files) == [f"{FOLDER}/tenants.yaml"]
    assert f"--tenant_quota_connector_uri={FOLDER}/tenants.yaml" in master.argv
    assert "team-a" in master.files[f"{FOLDER}/tenants.yaml"]
    assert dict(services(ground_of("{}"))["store-master"].files) == {}


def test_a_disk_behind_a_holder_is_a_folder_that_is_made_for_it() -> None:
    store = "{ssd: {path: /ssd, size_gb: 10}, holders: 2}"
    found = services(ground_of(store))
    for name in ("store-holder-0", "store-holder-1"):
        assert found[name].folders == (f"/ssd/{name}",)
        assert found[name].env["MOONCAKE_OFFLOAD_FILE_STORAGE_PATH"] == f"/ssd/{name}"
    assert found["store-master"].folders == ()


@pytest.mark.parametrize(
    ("store", "urls"),
    [
        ("{}", ("http://10.0.0.1:20001",)),
        (HA, ("http://10.0.0.1:20001", "http://10.0.0.2:20003")),
        ("{master: '10.9.9.9:50052', metrics_port: 9004}", ("http://10.9.9.9:9004",)),
    ],
)
def test_every_master_can_be_asked_for_health_and_pages(store: str, urls: tuple[str, ...]) -> None:
    access = layout_of(ground_of(store, addresses=THREE)).access()
    assert (access.backend, access.presence, access.where) == (
        "mooncake",
        "mooncake",
        "store.master",
    )
    assert access.urls == urls
    assert access.health_urls == tuple(f"{url}/health" for url in urls)
    assert access.tcp == ()


def test_keys_name_rank_and_half_and_no_slash() -> None:
    objects = objects_of("{}", tp=2)
    assert objects.prefix == "kv1_org-model_"
    assert objects.suffixes == ("_0_k", "_0_v", "_1_k", "_1_v")
    assert (objects.known, objects.ranks) == (True, 1)


@pytest.mark.parametrize("tp", [1, 4])
def test_an_mla_page_is_one_object_however_many_ranks_there_are(tp: int) -> None:
    assert objects_of("{}", tp=tp, is_mla=True).suffixes == ("__k",)


def test_every_pipeline_stage_has_objects_of_its_own() -> None:
    assert objects_of("{}", tp=2, pp=2).suffixes == (
        "_0_0_k", "_0_0_v", "_1_0_k", "_1_0_v", "_0_1_k", "_0_1_v", "_1_1_k", "_1_1_v",
    )  # fmt: skip
    assert objects_of("{}", pp=2, is_mla=True).suffixes == ("_0_k", "_1_k")


def test_with_page_head_and_a_common_multiple_every_head_group_is_an_object() -> None:
    """Workers of TP 2 and TP 4 name the same objects, so they share pages."""
    split = objects_of("{tp_lcm_size: 4}", layout="page_head", tp=2)
    assert split == objects_of("{tp_lcm_size: 4}", layout="page_head", tp=4)
    assert split.suffixes == tuple(f"_{rank}_{half}" for rank in range(4) for half in "kv")


def test_a_common_multiple_splits_no_other_layout() -> None:
    assert objects_of("{tp_lcm_size: 4}", tp=2) == objects_of("{}", tp=2)


def test_mooncake_is_the_default_backend() -> None:
    assert topology_of("{}").store.backend == "mooncake"
