"""On one Ray cluster a name is one cluster's: nobody gets, or ends, that of another home."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden.plans import golden_plan, shipped
from shared_ray import Actor, SharedRay, record, shared_ray

from pdcache.cluster import bring_down, desired, join
from pdcache.cluster.client import ClusterClient, create_controller
from pdcache.cluster.desired import Desired
from pdcache.cluster.join import given_nodes
from pdcache.errors import ClusterError
from pdcache.sglang.keys import Keys

MINE, THEIRS = record("mine"), record("theirs")
TAKEN = "the name 'demo' is taken on this Ray cluster by another cluster"


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SharedRay:
    monkeypatch.setenv("PDCACHE_HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setattr(join, "FREED_S", 0.0)
    monkeypatch.setattr(join, "ray_nodes", lambda ray: ())
    return shared_ray(monkeypatch)


@pytest.fixture
def theirs(ray: SharedRay) -> Actor:
    create_controller(THEIRS, limit_s=1.0)
    plan_is_kept()
    return ray.actors[THEIRS.namespace, "controller"]


def plan_is_kept() -> None:
    Desired(golden_plan("full_offload"), shipped("full_offload"), Keys("admin")).save("demo")


def down(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """What the process that ends a cluster by Ray answers."""
    bring_down.main("demo")
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return answer


def test_a_name_that_another_home_has_there_is_refused_before_anything_is_kept(
    theirs: Actor, tmp_path: Path
) -> None:
    with pytest.raises(ClusterError, match=TAKEN) as refusal:
        given_nodes("demo", 1.0)
    assert "--name" in str(refusal.value)
    assert "pdcache down demo" in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_which_a_process_is_left_is_refused_too(ray: SharedRay) -> None:
    ray.actors[THEIRS.namespace, "prefill-0"] = Actor()
    with pytest.raises(ClusterError, match=TAKEN):
        given_nodes("demo", 1.0)


def test_a_name_is_free_when_ray_has_ended_its_actors(
    theirs: Actor, ray: SharedRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "FREED_S", 60.0)
    monkeypatch.setattr(join.time, "sleep", lambda seconds: ray.kill(theirs))
    assert given_nodes("demo", 1.0) is not None


def test_another_name_is_free(theirs: Actor) -> None:
    assert given_nodes("another", 1.0) is not None


def test_of_two_that_begin_at_once_the_second_gets_no_controller(theirs: Actor) -> None:
    with pytest.raises(ClusterError, match=TAKEN):
        create_controller(MINE, limit_s=1.0)
    assert theirs.given == ("demo", "theirs")
    assert desired.load("demo") is not None


def test_who_was_refused_ends_nothing_of_the_other(
    theirs: Actor, ray: SharedRay, capsys: pytest.CaptureFixture[str]
) -> None:
    MINE.save()
    before = dict(ray.actors)
    assert down(capsys) == {"left": []}
    assert theirs.calls == ["resume"]
    assert ray.actors == before
    assert desired.load("demo") is not None


def test_who_has_the_name_ends_it(
    theirs: Actor, ray: SharedRay, capsys: pytest.CaptureFixture[str]
) -> None:
    THEIRS.save()
    assert down(capsys) == {"left": []}
    assert theirs.calls == ["resume", "stop"]
    assert ray.actors == {}


def test_who_lost_the_name_is_not_answered_by_who_has_it(theirs: Actor) -> None:
    with pytest.raises(ClusterError, match="another one has its name") as refusal:
        ClusterClient(MINE)
    assert "forgets this one" in str(refusal.value)
    assert ClusterClient(THEIRS).record is THEIRS


def test_a_new_cluster_does_not_take_up_what_one_before_it_was_meant_to_be(ray: SharedRay) -> None:
    desired.claim("demo", THEIRS.id)
    plan_is_kept()
    create_controller(MINE, limit_s=1.0)
    assert desired.load("demo") is None
    assert not desired.is_others("demo", MINE.id)


def test_a_cluster_whose_owner_was_not_noted_is_that_of_the_record(ray: SharedRay) -> None:
    assert not desired.is_others("demo", MINE.id)
