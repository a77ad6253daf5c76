"""The section `store`: each backend has keys of its own, and a mistake is told in its words."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdcache.errors import TopologyError
from pdcache.store.registry import BACKENDS
from pdcache.topology import Topology, load_topology, parse_topology
from pdcache.topology.stores import STORES, DynamicStore, MooncakeStore

HEAD = "name: small\nmode: full_offload\nmodel: {path: tiny-random}\n"
NEEDED = {
    "mooncake": "",
    "hf3fs": ", path: /3fs",
    "file": ", path: /nfs",
    "nixl": "",
    "aibrix": "",
    "eic": ", config: {remote_url: a}",
    "simm": ", manager: 'h:1'",
    "dynamic": ", backend_name: a, module_path: a.b, class_name: C",
}
"""What a section must have beside the name of its backend."""


def parsed(store: str, *overrides: str) -> Topology:
    return parse_topology(f"{HEAD}store: {store}", source="t.yaml", overrides=overrides)


def refusal(store: str, *overrides: str) -> str:
    with pytest.raises(TopologyError) as caught:
        parsed(store, *overrides)
    return str(caught.value)


@pytest.mark.parametrize("text", [HEAD, HEAD + "store: {}", HEAD + "store: {segment_gb: 2}"])
def test_a_store_without_a_backend_is_mooncake(text: str) -> None:
    store = parse_topology(text, source="t.yaml").store
    assert isinstance(store, MooncakeStore)
    assert store.backend == "mooncake"


@pytest.mark.parametrize("backend", STORES)
def test_a_backend_is_named_and_has_a_section_of_its_own(backend: str) -> None:
    store = parsed(f"{{backend: {backend}{NEEDED[backend]}}}").store
    assert type(store) is STORES[backend]
    assert store.backend == backend


def test_every_backend_of_the_yaml_can_be_laid_out() -> None:
    assert set(BACKENDS) == set(STORES) == set(NEEDED)


def test_an_override_chooses_the_backend() -> None:
    topology = parsed("{}", "store.backend=file", "store.path=/nfs")
    assert topology.store.backend == "file"


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("mooncak", "mooncake"), ("hf3f", "hf3fs"), ("files", "file"), ("dynamo", "dynamic")],
)
def test_an_unknown_backend_names_the_nearest(given: str, nearest: str) -> None:
    said = refusal(f"{{backend: {given}}}")
    assert said == (
        f"t.yaml:4: store.backend: there is no storage backend `{given}`. "
        f"Did you mean `{nearest}`? Backends: {', '.join(STORES)}."
    )


def test_a_backend_that_is_like_none_is_told_which_there_are() -> None:
    said = refusal("{backend: 7}")
    assert "store.backend: there is no storage backend `7`. Backends: mooncake, hf3fs" in said


def test_an_unknown_backend_of_an_override_is_told_as_its() -> None:
    assert refusal("{}", "store.backend=floppy").startswith("--set store.backend: there is no")


@pytest.mark.parametrize(
    ("backend", "given", "nearest"),
    [
        ("mooncake", "segment_gib: 2", "segment_gb"),
        ("mooncake", "tp_lcm: 2", "tp_lcm_size"),
        ("hf3fs", "file_size: 2", "file_size_gb"),
        ("hf3fs", "metadata_sever: x", "metadata_server"),
        ("file", "max_size: 2", "max_size_gb"),
        ("nixl", "plugins: OBJ", "plugin"),
        ("aibrix", "l2_backends: PRIS", "l2_backend"),
        ("eic", "configs: {}", "config"),
        ("simm", "managers: x", "manager"),
        ("dynamic", "klass_name: X", "class_name"),
        ("dynamic", "name_space: X", "namespace"),
    ],
)
def test_an_unknown_key_names_the_nearest_of_its_backend(
    backend: str, given: str, nearest: str
) -> None:
    key = given.partition(":")[0]
    said = refusal(f"\n  backend: {backend}{NEEDED[backend].replace(', ', chr(10) + '  ')}\n  "
                   + given)  # fmt: skip
    assert f": store.{key}: unknown key. Did you mean `{nearest}`?" in said
    assert said.startswith("t.yaml:")


def test_a_key_of_another_backend_is_unknown() -> None:
    said = refusal("{backend: file, path: /nfs, segment_gb: 2}")
    assert said.startswith("t.yaml:4: store.segment_gb: unknown key.")
    assert "`segment_gb`" not in said


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("{ssd: {pth: /ssd, size_gb: 1}}", "store.ssd.pth: unknown key. Did you mean `path`?"),
        ("{ha: {master: 3}}", "store.ha.master: unknown key. Did you mean `masters`?"),
    ],
)
def test_an_unknown_key_of_an_inner_section_names_the_nearest_there(store: str, said: str) -> None:
    assert said in refusal(store)


@pytest.mark.parametrize(
    ("backend", "key"),
    [
        ("hf3fs", "path"),
        ("file", "path"),
        ("eic", "config"),
        ("simm", "manager"),
        ("dynamic", "module_path"),
    ],
)
def test_a_key_that_a_backend_cannot_do_without_is_asked_for(backend: str, key: str) -> None:
    said = refusal(f"{{backend: {backend}}}")
    assert f"store.{key}: this key is required. Add `{key}: ...`." in said


@pytest.mark.parametrize(
    ("store", "key"),
    [
        ("{backend: file, path: kv}", "store.path"),
        ("{backend: file, path: ./kv}", "store.path"),
        ("{backend: hf3fs, path: ~/3fs}", "store.path"),
        ("{backend: nixl, path: kv}", "store.path"),
        ("{ssd: {path: ssd, size_gb: 1}}", "store.ssd.path"),
    ],
)
def test_a_folder_that_is_not_absolute_is_refused(store: str, key: str) -> None:
    """Workers of other nodes have other working folders."""
    assert f": {key}: " in refusal(store)


@pytest.mark.parametrize(
    ("store", "key"),
    [
        ("{master: no-port}", "store.master"),
        ("{master: 'http://h:1'}", "store.master"),
        ("{ha: {masters: 1}}", "store.ha.masters"),
        ("{segment_gb: 0}", "store.segment_gb"),
        ("{namespace: 'a/b'}", "store.namespace"),
        ("{backend: hf3fs, path: /a, metadata_server: 'h:1'}", "store.metadata_server"),
        ("{backend: simm, manager: h}", "store.manager"),
        ("{backend: eic, config: {}}", "store.config"),
        ("{backend: dynamic, backend_name: a, module_path: a/b, class_name: C}",
         "store.module_path"),
    ],
)  # fmt: skip
def test_a_value_that_a_backend_cannot_use_is_refused(store: str, key: str) -> None:
    assert f": {key}: " in refusal(store)


def test_a_section_that_holds_no_keys_is_refused() -> None:
    assert "store: " in refusal("mooncake")


DYNAMIC = (
    HEAD + "store:\n  backend: dynamic\n  backend_name: a\n  module_path: m\n  class_name: C\n"
)


def code_of(topology: Topology) -> str | None:
    assert isinstance(topology.store, DynamicStore)
    return topology.store.code


def test_code_stands_relative_to_the_topology_whatever_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, elsewhere = tmp_path / "topologies", tmp_path / "elsewhere"
    for made in (folder, elsewhere):
        made.mkdir()
    (folder / "own.yaml").write_text(DYNAMIC + "  code: ../code/m.py\n")
    monkeypatch.chdir(elsewhere)
    assert code_of(load_topology("../topologies/own.yaml")) == str(tmp_path / "code" / "m.py")
    assert code_of(load_topology(folder / "own.yaml", ["store.code=/opt/m.py"])) == "/opt/m.py"


def test_a_module_that_is_installed_has_no_code(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(DYNAMIC)
    assert code_of(load_topology(tmp_path / "own.yaml")) is None
