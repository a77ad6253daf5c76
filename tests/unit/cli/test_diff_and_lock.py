"""`plan --diff`, `plan --lock`, `up --locked`: what would change, and what may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from command_outcome import Pdcache

from tests.cluster_tools import free_port

TOPOLOGIES = Path(__file__).resolve().parents[3] / "topologies"


def by_place(found: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[Any, Any]]:
    return {(one["process"], one["what"]): (one["before"], one["after"]) for one in found}


def test_a_topology_does_not_differ_from_itself(pdcache: Pdcache, small: Path) -> None:
    done = pdcache("plan", "--diff", small, small)
    assert (done.code, done.out.strip()) == (0, "no difference.")


def test_the_difference_of_the_modes_is_what_decode_gets(pdcache: Pdcache) -> None:
    files = TOPOLOGIES / "prefill_only.yaml", TOPOLOGIES / "full_offload.yaml"
    done = pdcache("plan", "--diff", *files, "--json")
    assert done.code == 1
    found = by_place(done.json()["differences"])
    assert {process for process, _ in found} == {"decode-0"}
    offload = "--disaggregation-decode-enable-offload-kvcache"
    assert found["decode-0", offload] == (None, "")
    text = pdcache("plan", "--diff", *files).out
    assert f"+ {offload}\n" in text
    assert "- " not in text


def test_a_process_more_and_a_value_that_changed_are_told(
    pdcache: Pdcache, small: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    data = yaml.safe_load(small.read_text()) | {"prefill": {"workers": 2}, "page_size": 32}
    other.write_text(yaml.safe_dump(data))
    found = by_place(pdcache("plan", "--diff", small, other, "--json").json()["differences"])
    assert found["prefill-1", "a process"] == (None, "")
    assert found["prefill-0", "--page-size"] == ("64", "32")


def test_a_port_that_the_topology_gives_is_a_difference(
    pdcache: Pdcache, small: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(small.read_text() + "gateway: {port: 9000}\n")
    found = by_place(pdcache("plan", "--diff", small, other, "--json").json()["differences"])
    assert found == {("gateway", "--port"): ("8000", "9000")}


@pytest.fixture
def lock(pdcache: Pdcache, small: Path, tmp_path: Path) -> Path:
    file = tmp_path / "small.lock"
    sets = ("--set", "prefill.workers=2", "--set", f"gateway.port={free_port()}")
    done = pdcache("plan", small, *sets, "--lock", file)
    assert done.code == 0
    return file


def test_a_lock_is_a_recipe_that_a_person_can_read(lock: Path) -> None:
    data = yaml.safe_load(lock.read_text())
    assert data["topology"]["prefill"] == {"workers": 2}
    assert data["versions"].keys() >= {"pdcache", "sglang", "ray", "smg"}
    assert data["models"]["tiny-random"].startswith("weights ")
    flags = data["processes"]["decode-0"]["flags"]
    assert flags["--page-size"] == "64"
    assert flags["--host"] == "<node 0>"
    assert str(lock.parent) not in lock.read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda d: d["versions"].update(sglang="0.5.24"), "- sglang 0.5.24",
                     id="another version"),
        pytest.param(lambda d: d["models"].update({"tiny-random": "weights x tokenizer y"}),
                     "- tiny-random weights x tokenizer y", id="other weights"),
        pytest.param(lambda d: d["topology"].update(page_size=32), "- --page-size 64",
                     id="another topology"),
    ],
)  # fmt: skip
def test_up_starts_nothing_that_differs_from_the_lock(
    pdcache: Pdcache, lock: Path, home: Path, change: Any, said: str
) -> None:
    data = yaml.safe_load(lock.read_text())
    change(data)
    lock.write_text(yaml.safe_dump(data))
    done = pdcache("up", "--locked", lock)
    assert done.code == 1
    assert said in done.out
    assert "not what was locked; nothing was started" in done.err
    assert not (home / "clusters").exists()


def test_a_locked_topology_takes_no_other_values(pdcache: Pdcache, lock: Path) -> None:
    assert pdcache("up", "--locked", lock, "--set", "page_size=32").code == 2


def test_a_topology_is_no_lock(pdcache: Pdcache, small: Path) -> None:
    done = pdcache("up", "--locked", small)
    assert done.code == 1
    assert "no lock file" in done.err and "--lock" in done.err
