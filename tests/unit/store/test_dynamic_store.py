"""A backend of the user's own: its name in SGLang's words, and its code on every worker."""

from __future__ import annotations

from grounds import FOLDER, ground_of, layout_of, objects_of

from pdcache.topology import Role
from pdcache.topology.placement import store_places

INSTALLED = (
    "{backend: dynamic, backend_name: mine, module_path: kv.pages, class_name: Pages,"
    " interface_v1: true}"
)
SENT = "{backend: dynamic, backend_name: mine, module_path: pages, class_name: Pages, code: p.py}"
CODE = {"pages.py": "class Pages: ...\n", "kv/inner.py": "x = 1\n"}


def test_sglang_is_told_the_class_and_the_class_its_namespace() -> None:
    access = layout_of(ground_of(INSTALLED)).worker("10.0.0.3", Role.DECODE, "kv1")
    assert dict(access.options) == {
        "backend_name": "mine",
        "module_path": "kv.pages",
        "class_name": "Pages",
        "interface_v1": 1,
        "namespace": "kv1",
    }
    assert (dict(access.env), dict(access.files), access.folders) == ({}, {}, ())


def test_code_is_written_on_every_worker_and_stands_on_its_import_path() -> None:
    access = layout_of(ground_of(SENT, code=CODE)).worker("10.0.0.3", Role.PREFILL, "kv1")
    assert access.options["interface_v1"] == 0
    assert dict(access.files) == {
        f"{FOLDER}/code/pages.py": CODE["pages.py"],
        f"{FOLDER}/code/kv/inner.py": CODE["kv/inner.py"],
    }
    assert dict(access.env) == {"PYTHONPATH": f"{FOLDER}/code"}


def test_nobody_but_the_class_knows_what_it_holds() -> None:
    ground = ground_of(INSTALLED)
    assert store_places(ground.topology, 3) == []
    access = layout_of(ground).access()
    assert (access.backend, access.presence, access.where) == (
        "dynamic",
        "unknown",
        "store.module_path",
    )
    assert (access.health_urls, access.tcp) == ((), ())
    assert not objects_of(INSTALLED).known
