"""AIBrix, EIC, SiMM, NIXL: what workers are told of a store that runs already."""

from __future__ import annotations

import json

import pytest
from grounds import FOLDER, ground_of, layout_of, objects_of

from pdcache.store.backend import StoreAccess, WorkerAccess
from pdcache.store.given import EIC_ENV
from pdcache.topology import Role
from pdcache.topology.placement import store_places

AIBRIX = "{backend: aibrix, remote: '10.9.9.9:6379'}"
EIC = "{backend: eic, config: {remote_url: '10.9.9.9:12500', eic_instance_id: a}}"
SIMM = "{backend: simm, manager: '10.9.9.9:30001'}"
NIXL = "{backend: nixl, path: /nfs/kv/}"
ALL = pytest.mark.parametrize("store", [AIBRIX, EIC, SIMM, NIXL])


def worker(store: str, *, role: Role = Role.PREFILL, namespace: str = "kv1") -> WorkerAccess:
    return layout_of(ground_of(store)).worker("10.0.0.3", role, namespace)


def access(store: str) -> StoreAccess:
    return layout_of(ground_of(store)).access()


@ALL
def test_a_given_store_needs_no_process_and_cannot_be_asked_for_pages(store: str) -> None:
    assert store_places(ground_of(store).topology, 3) == []
    assert access(store).presence == "unknown"
    assert access(store).backend in store
    assert access(store).where.startswith("store.")
    assert not objects_of(store).known


def test_aibrix_reads_everything_from_its_variables() -> None:
    found = worker(AIBRIX, namespace="Mine")
    assert dict(found.options) == {}
    assert dict(found.env) == {
        "AIBRIX_KV_CACHE_OL_L1_CACHE_ENABLED": "0",
        "AIBRIX_KV_CACHE_OL_L2_CACHE_BACKEND": "PRIS",
        "AIBRIX_KV_CACHE_OL_L2_CACHE_NAMESPACE": "mine",
        "AIBRIX_KV_CACHE_OL_PRIS_REMOTE_ADDR": "10.9.9.9",
        "AIBRIX_KV_CACHE_OL_PRIS_REMOTE_PORT": "6379",
    }


def test_further_variables_of_aibrix_are_given_without_their_prefix_and_win() -> None:
    store = (
        "{backend: aibrix, l2_backend: INFINISTORE, remote: '10.9.9.9:1',"
        " options: {L1_CACHE_ENABLED: '1', PROFILING_ENABLED: '1'}}"
    )
    env = worker(store).env
    assert env["AIBRIX_KV_CACHE_OL_L1_CACHE_ENABLED"] == "1"
    assert env["AIBRIX_KV_CACHE_OL_PROFILING_ENABLED"] == "1"
    assert env["AIBRIX_KV_CACHE_OL_INFINISTORE_REMOTE_ADDR"] == "10.9.9.9"


def test_eic_reads_a_file_of_each_role_that_its_variable_names() -> None:
    for role in (Role.PREFILL, Role.DECODE):
        found = worker(EIC, role=role)
        path = f"{FOLDER}/eic-{role}.yaml"
        assert (dict(found.options), dict(found.env)) == ({}, {EIC_ENV: path})
        assert list(found.files) == [path]
        data = json.loads(found.files[path])
        assert data["eic_namespace"] == "kv1"
        assert (data["remote_url"], data["eic_instance_id"]) == ("10.9.9.9:12500", "a")


def test_a_namespace_in_the_configuration_of_eic_wins() -> None:
    found = worker("{backend: eic, config: {eic_namespace: mine}}")
    assert json.loads(found.files[found.env[EIC_ENV]])["eic_namespace"] == "mine"


def test_simm_takes_its_manager_and_no_tag_under_which_it_would_find_nothing() -> None:
    found = worker("{backend: simm, manager: '10.9.9.9:30001', clnt_threadpool_size: 4}")
    assert dict(found.options) == {
        "manager_address": "10.9.9.9:30001",
        "clnt_threadpool_size": 4,
    }
    assert (dict(found.env), dict(found.files), found.folders) == ({}, {}, ())


@pytest.mark.parametrize(
    ("store", "tcp"),
    [
        (AIBRIX, ("10.9.9.9:6379",)),
        ("{backend: aibrix}", ()),
        (SIMM, ("10.9.9.9:30001",)),
        (EIC, ()),
        (NIXL, ()),
    ],
)
def test_what_listens_at_a_known_address_must_accept_connections(
    store: str, tcp: tuple[str, ...]
) -> None:
    assert access(store).tcp == tcp
    assert access(store).health_urls == ()


@pytest.mark.parametrize("plugin", ["POSIX", "GDS", "GDS_MT", "3FS"])
def test_a_plugin_of_nixl_that_writes_files_has_a_folder_of_the_namespace(plugin: str) -> None:
    found = worker(f"{{backend: nixl, path: /nfs/kv/, plugin: {plugin}, direct_io: true}}")
    assert dict(found.options) == {
        "plugin": {plugin.lower(): {"active": True}},
        "use_direct_io": True,
    }
    assert dict(found.env) == {"SGLANG_HICACHE_NIXL_BACKEND_STORAGE_DIR": "/nfs/kv/kv1"}
    assert found.folders == ("/nfs/kv/kv1",)


def test_objects_of_nixl_lie_in_a_bucket_and_in_no_folder() -> None:
    found = worker("{backend: nixl, plugin: OBJ, bucket: kv}")
    assert found.options["plugin"] == {"obj": {"active": True, "bucket": "kv"}}
    assert (dict(found.env), found.folders) == ({}, ())
