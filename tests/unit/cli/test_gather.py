"""What is collected before a topology is checked: its nodes, its models, and code of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdcache.cli import gather as module
from pdcache.cli.gather import gather
from pdcache.errors import TopologyError
from pdcache.topology import Topology, load_topology
from pdcache.topology.facts import Node


def topology(folder: Path, code: str | None, more: str = "") -> Topology:
    """A topology with a store of the user's own."""
    file = folder / "own.yaml"
    key = "" if code is None else f", code: {code}"
    file.write_text(
        "name: small\nmode: full_offload\ndevice: cpu\nmodel: {path: tiny-random}\n"
        "store: {backend: dynamic, backend_name: a, module_path: m, class_name: C"
        f"{key}}}\n{more}"
    )
    return load_topology(file)


def code_of(folder: Path, code: str | None) -> dict[str, str]:
    return dict(gather(topology(folder, code), nodes=(Node(),)).code)


def test_a_file_is_sent_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("x = 'é'\n")
    (tmp_path / "other.py").write_text("")
    assert code_of(tmp_path, "m.py") == {"m.py": "x = 'é'\n"}


def test_of_a_folder_all_python_files_are_sent_with_their_places(tmp_path: Path) -> None:
    package = tmp_path / "code" / "m"
    package.mkdir(parents=True)
    for name in ("__init__.py", "inner.py", "notes.txt"):
        (package / name).write_text(name)
    assert code_of(tmp_path, "code") == {
        "m/__init__.py": "__init__.py",
        "m/inner.py": "inner.py",
    }


def test_a_module_that_is_installed_is_not_sent(tmp_path: Path) -> None:
    assert code_of(tmp_path, None) == {}


@pytest.mark.parametrize("code", ["nowhere.py", "nowhere", "."])
def test_a_path_without_python_code_is_told_by_its_key(tmp_path: Path, code: str) -> None:
    with pytest.raises(TopologyError, match="no Python code") as caught:
        code_of(tmp_path, code)
    assert caught.value.where == "store.code"
    assert str((tmp_path / code).resolve()) in caught.value.message


def test_more_code_than_a_module_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CODE_LIMIT", 10)
    (tmp_path / "m.py").write_text("x" * 11)
    with pytest.raises(TopologyError, match="larger than 10 bytes"):
        code_of(tmp_path, "m.py")


def test_code_that_is_known_already_is_not_read_again(tmp_path: Path) -> None:
    known = {"m.py": "x = 1\n"}
    assert gather(topology(tmp_path, "gone.py"), nodes=(Node(),), code=known).code == known


def test_the_nodes_a_topology_is_meant_for_take_the_place_of_this_machine(tmp_path: Path) -> None:
    nodes = "nodes: {count: 2, gpus: 4, memory_gb: 100}\n"
    meant = gather(topology(tmp_path, None, nodes)).nodes
    assert [(node.gpus, node.memory_bytes) for node in meant] == [(4, 100_000_000_000)] * 2
    assert len({node.address for node in meant}) == 2
    given = (Node(gpus=1),)
    assert gather(topology(tmp_path, None, nodes), nodes=given).nodes == given
    (here,) = gather(topology(tmp_path, None)).nodes
    assert here.address == "127.0.0.1"
