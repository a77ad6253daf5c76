"""A cluster whose controller does not answer is ended all the same, and nothing of it returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden.plans import golden_plan, shipped
from shared_ray import Actor, SharedRay, record, shared_ray

from pdcache.cluster import bring_down, desired
from pdcache.cluster.client import create_controller
from pdcache.cluster.desired import Desired
from pdcache.sglang.keys import Keys

OWN, NEIGHBOUR = record("own"), record("other", name="neighbour")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SharedRay:
    """The cluster and a neighbour, both up."""
    monkeypatch.setenv("PDCACHE_HOME", str(tmp_path))
    ray = shared_ray(monkeypatch)
    for cluster in (OWN, NEIGHBOUR):
        cluster.save()
        create_controller(cluster, limit_s=1.0)
        ray.actors[cluster.namespace, "prefill-0"] = Actor()
        plan = golden_plan("full_offload")
        Desired(plan, shipped("full_offload"), Keys("admin")).save(cluster.name)
    return ray


@pytest.mark.parametrize("controller", ["silent", "gone"])
def test_its_actors_are_killed_and_what_it_was_meant_to_be_is_forgotten(
    ray: SharedRay, controller: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ray.actors[OWN.namespace, "controller"]
    own.answers["stop"] = ray.exceptions.GetTimeoutError()
    if controller == "gone":
        ray.kill(own)
    bring_down.main("demo")
    assert json.loads(capsys.readouterr().out) == {"left": []}
    assert {space for space, _ in ray.actors} == {NEIGHBOUR.namespace}
    assert desired.load("demo") is None
    assert not desired.is_others("demo", "whoever comes next")
    assert desired.load("neighbour") is not None
