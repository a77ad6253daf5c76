"""A shared folder laid out: one file a page, found by its name."""

from __future__ import annotations

import pytest
from grounds import ground_of, layout_of, objects_of

from pdcache.store.backend import WorkerAccess
from pdcache.store.file import FOLDER_ENV
from pdcache.topology import Role
from pdcache.topology.placement import store_places

PLAIN = "{backend: file, path: /nfs/kv/}"


def worker(store: str) -> WorkerAccess:
    return layout_of(ground_of(store)).worker("10.0.0.3", Role.DECODE, "kv1")


def test_every_namespace_has_a_folder_of_its_own_that_is_made() -> None:
    access = worker(PLAIN)
    assert dict(access.options) == {"file_storage_path": "/nfs/kv/kv1"}
    assert access.folders == ("/nfs/kv/kv1",)
    assert dict(access.files) == {}


def test_the_variable_that_wins_over_the_option_names_the_same_folder() -> None:
    assert dict(worker(PLAIN).env) == {FOLDER_ENV: "/nfs/kv/kv1"}


def test_a_size_is_given_in_bytes() -> None:
    options = worker("{backend: file, path: /nfs, max_size_gb: 1.5}").options
    assert options["max_size"] == 1_500_000_000
    assert "max_size" not in worker(PLAIN).options


def test_a_folder_needs_no_process_and_has_nobody_to_ask_for_its_health() -> None:
    ground = ground_of(PLAIN)
    assert store_places(ground.topology, 3) == []
    access = layout_of(ground).access()
    assert (access.backend, access.presence, access.where) == ("file", "files", "store.path")
    assert (access.health_urls, access.tcp, access.urls) == ((), (), ())


def test_a_page_is_a_file_a_rank() -> None:
    objects = objects_of(PLAIN, tp=2)
    assert objects.prefix == "/nfs/kv/kv1/"
    assert objects.suffixes == ("_org-model_0_2.bin", "_org-model_1_2.bin")


def test_an_mla_page_is_one_file() -> None:
    assert objects_of(PLAIN, tp=8, is_mla=True).suffixes == ("_org-model.bin",)


def test_every_pipeline_stage_has_files_of_its_own() -> None:
    assert objects_of(PLAIN, tp=2, pp=2).suffixes == (
        "_org-model_0_2_2_0.bin",
        "_org-model_1_2_2_0.bin",
        "_org-model_0_2_2_1.bin",
        "_org-model_1_2_2_1.bin",
    )
    assert objects_of(PLAIN, pp=2, is_mla=True).suffixes == (
        "_org-model_2_0.bin",
        "_org-model_2_1.bin",
    )


@pytest.mark.parametrize("layout", ["page_first", "page_first_direct", "page_head", "layer_first"])
def test_the_layout_does_not_show_in_the_name(layout: str) -> None:
    assert objects_of(PLAIN, layout=layout) == objects_of(PLAIN)
