"""The record that shell commands share about a cluster."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from pdcache.cluster.record import (
    Record,
    all_records,
    cluster_folder,
    find,
    log_file,
    new_id,
    the_record,
    write_secret,
)
from pdcache.errors import ClusterError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PDCACHE_HOME", str(tmp_path))
    return tmp_path


def record(name: str = "demo", created_s: float = 1.0) -> Record:
    return Record(
        name=name, id="ab", address="127.0.0.1:6379", token_file=None, temp_dir=None,
        scratch_dir=None, head_pid=7, head_started=9, created_s=created_s,
    )  # fmt: skip


def the_error(name: str | None) -> str:
    with pytest.raises(ClusterError) as caught:
        the_record(name)
    return str(caught.value)


def test_a_saved_record_is_found_as_it_was(home: Path) -> None:
    saved = record()
    saved.save()
    assert find("demo") == saved
    assert [path.name for path in (home / "clusters" / "demo").iterdir()] == ["cluster.json"]


def test_a_cluster_that_was_never_up_has_no_record() -> None:
    assert find("demo") is None
    assert all_records() == []


def test_records_come_oldest_first() -> None:
    for name, created_s in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        record(name, created_s).save()
    assert [found.name for found in all_records()] == ["b", "c", "a"]


def test_the_only_cluster_needs_no_name() -> None:
    record().save()
    assert the_record(None) == the_record("demo") == record()


def test_with_none_up_it_says_how_to_bring_one_up() -> None:
    assert the_error(None).startswith("no cluster is up. Bring one up: pdcache up ")


def test_with_several_up_it_asks_which() -> None:
    record("a").save()
    record("b", 2.0).save()
    assert the_error(None) == "several clusters are up; say which. Names: a, b."


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    assert the_error("x") == "no cluster named 'x' is up. Clusters that are up: none."
    record("a").save()
    assert the_error("x") == "no cluster named 'x' is up. Clusters that are up: a."


@pytest.mark.parametrize("text", ["{", "", "{}", '{"name": "demo", "new_key": 1}'])
def test_a_record_of_another_version_is_told_with_its_file(home: Path, text: str) -> None:
    file = home / "clusters" / "demo" / "cluster.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(ClusterError, match="another version") as caught:
        find("demo")
    assert caught.value.where == str(file)


def test_a_removed_record_leaves_only_the_logs(tmp_path: Path) -> None:
    temp, scratch = tmp_path / "ray", tmp_path / "sockets"
    saved = replace(record(), temp_dir=str(temp), scratch_dir=str(scratch))
    saved.save()
    for path in (
        temp / "session" / "x", scratch / "y", log_file("demo", "prefill-0"),
        saved.folder / "workers.json",
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    saved.remove()
    assert find("demo") is None
    assert not temp.exists()
    assert not scratch.exists()
    assert [path.name for path in cluster_folder("demo").iterdir()] == ["logs"]
    saved.remove()


def test_a_record_that_is_written_anew_is_never_seen_half(home: Path) -> None:
    record().save()
    replace(record(), id="cd").save()
    assert json.loads((home / "clusters" / "demo" / "cluster.json").read_text())["id"] == "cd"


def test_no_two_clusters_get_one_id() -> None:
    assert len({new_id() for _ in range(100)}) == 100


def test_a_secret_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    write_secret(tmp_path / "new" / "token", "secret")
    write_secret(tmp_path / "new" / "token", "other")
    assert (tmp_path / "new" / "token").read_text() == "other"
    assert stat.S_IMODE((tmp_path / "new" / "token").stat().st_mode) == 0o600
