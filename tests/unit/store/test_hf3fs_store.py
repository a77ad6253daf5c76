"""3FS laid out: the metadata server, the configuration file of the workers, and a page's keys."""

from __future__ import annotations

import json

import pytest
from grounds import FOLDER, CountingPorts, ground_of, layout_of, objects_of

from pdcache.sglang_cpu import pythonpath_folder
from pdcache.store.backend import WorkerAccess
from pdcache.store.hf3fs import CONFIG_ENV
from pdcache.topology import Role
from pdcache.topology.placement import store_places

PLAIN = "{backend: hf3fs, path: /3fs}"
GIVEN = "{backend: hf3fs, path: /3fs, metadata_server: 'http://10.9.9.9:18000/'}"


def worker(store: str, *, device: str = "cuda", role: Role = Role.PREFILL) -> WorkerAccess:
    return layout_of(ground_of(store, device=device)).worker("10.0.0.3", role, "kv1")


def config(store: str) -> dict[str, object]:
    """The configuration file as SGLang reads it."""
    access = worker(store)
    data: dict[str, object] = json.loads(access.files[access.env[CONFIG_ENV]])
    return data


def test_sglang_reads_a_file_that_its_variable_names() -> None:
    access = worker(PLAIN)
    assert dict(access.env) == {CONFIG_ENV: f"{FOLDER}/hf3fs-prefill.json"}
    assert list(access.files) == [f"{FOLDER}/hf3fs-prefill.json"]
    assert config(PLAIN) == {
        "file_path_prefix": "/3fs/kv1/hicache",
        "file_size": 1024 * 10**9,
        "numjobs": 16,
        "entries": 8,
        "client_timeout": 5.0,
        "metadata_server_url": "http://10.0.0.1:20000",
    }


def test_each_role_has_a_file_of_its_own() -> None:
    assert worker(PLAIN, role=Role.DECODE).env[CONFIG_ENV] == f"{FOLDER}/hf3fs-decode.json"


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        ("path: /mnt/3fs/", "file_path_prefix", "/mnt/3fs/kv1/hicache"),
        ("file_size_gb: 0.5", "file_size", 500_000_000),
        ("numjobs: 2", "numjobs", 2),
        ("entries: 4", "entries", 4),
        ("client_timeout_s: 2.5", "client_timeout", 2.5),
        ("metadata_server: 'http://10.9.9.9:18000'", "metadata_server_url",
         "http://10.9.9.9:18000"),
        ("port: 18000", "metadata_server_url", "http://10.0.0.1:18000"),
    ],
)  # fmt: skip
def test_a_key_of_the_store_reaches_the_file(key: str, name: str, value: object) -> None:
    path = "" if key.startswith("path") else "path: /3fs, "
    assert config(f"{{backend: hf3fs, {path}{key}}}")[name] == value


def test_the_rank_files_lie_in_a_folder_of_the_namespace_that_is_made() -> None:
    assert worker("{backend: hf3fs, path: /3fs/}").folders == ("/3fs/kv1",)


@pytest.mark.parametrize(
    ("key", "device", "mocked"),
    [
        ("", "cpu", True),
        ("", "cuda", False),
        (", mock_client: true", "cuda", True),
        (", mock_client: false", "cpu", False),
    ],
)
def test_a_cpu_machine_has_plain_files_in_place_of_3fs(key: str, device: str, mocked: bool) -> None:
    options = worker(f"{{backend: hf3fs, path: /3fs{key}}}", device=device).options
    assert dict(options) == ({"use_mock_hf3fs_client": True} if mocked else {})


def test_the_metadata_server_starts_before_the_workers_on_the_first_node() -> None:
    ground = ground_of(PLAIN, device="cuda", addresses=("10.0.0.1", "10.0.0.2"))
    layout = layout_of(ground)
    (place,) = store_places(ground.topology, 2)
    service = layout.service(place)
    assert service.argv[:2] == ("/bin/python", "-m")
    assert service.argv[3:] == ("--host", "10.0.0.1", "--port", "20000")
    assert (service.wave, service.ports) == (0, {"http": 20000})
    assert service.url == "http://10.0.0.1:20000"
    assert service.health_path == "/openapi.json"
    assert dict(service.env) == {}


def test_on_a_cpu_machine_the_metadata_server_needs_the_cpu_lane_too() -> None:
    ground = ground_of(PLAIN, device="cpu")
    (place,) = store_places(ground.topology, 1)
    env = layout_of(ground).service(place).env
    assert env["PYTHONPATH"] == str(pythonpath_folder())
    assert env["SGLANG_USE_CPU_ENGINE"] == "1"


def test_a_given_port_is_named_by_its_key() -> None:
    ground = ground_of("{backend: hf3fs, path: /3fs, port: 18000}")
    layout_of(ground)
    assert isinstance(ground.ports, CountingPorts)
    assert ground.ports.by_key == [("store.port", 18000)]


@pytest.mark.parametrize(
    ("store", "url"), [(PLAIN, "http://10.0.0.1:20000"), (GIVEN, "http://10.9.9.9:18000")]
)
def test_the_metadata_server_is_asked_for_health_and_pages(store: str, url: str) -> None:
    access = layout_of(ground_of(store)).access()
    assert (access.backend, access.presence) == ("hf3fs", "hf3fs")
    assert access.urls == (url,)
    assert access.health_urls == (f"{url}/openapi.json",)
    assert access.where == "store.metadata_server"


@pytest.mark.parametrize("layout", ["page_first", "page_first_direct"])
def test_without_copies_k_and_v_are_two_pages_of_every_rank(layout: str) -> None:
    objects = objects_of(PLAIN, layout=layout, tp=4)
    assert (objects.prefix, objects.suffixes, objects.ranks) == ("", ("-k", "-v"), 4)


def test_with_a_copy_a_page_is_one_page_of_every_rank() -> None:
    objects = objects_of(PLAIN, layout="layer_first", tp=2)
    assert (objects.prefix, objects.suffixes, objects.ranks) == ("", ("",), 2)


@pytest.mark.parametrize("layout", ["page_first_direct", "layer_first"])
def test_under_mla_all_ranks_are_rank_0(layout: str) -> None:
    objects = objects_of(PLAIN, layout=layout, tp=16, is_mla=True)
    assert (objects.prefix, objects.suffixes, objects.ranks) == ("", ("",), 1)
