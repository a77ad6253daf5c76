"""A cluster whose prefills are flushed: a real `Live`, over processes that are all healthy."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from golden.plans import golden_plan, shipped

from pdcache.cluster import live as live_module
from pdcache.cluster.desired import Desired
from pdcache.cluster.events import Events
from pdcache.cluster.live import Live
from pdcache.cluster.states import ProcessState, ProcessStatus
from pdcache.errors import ClusterError
from pdcache.faults import chains
from pdcache.plan.process import Process
from pdcache.sglang.keys import Keys

PLAN = golden_plan("full_offload")


class KeptDesired(Desired):
    """Keeps itself, for a controller that comes next, in ``kept``; ``saves`` counts how often."""

    kept = b""
    saves = 0

    def save(self, cluster: str) -> None:
        self.kept, self.saves = b"", self.saves + 1
        self.kept = pickle.dumps(self)

    def as_found(self) -> KeptDesired:
        """What the next controller finds."""
        found: KeptDesired = pickle.loads(self.kept)
        return found


class FlushedCluster:
    """Prefills that serve all the while, so none is idle by itself.

    Attributes:
        flushed: each flush, with the reason why the worker was held then.
        during: called in the middle of a flush.
        manifests: ids of the workers in each manifest that was written.
    """

    def __init__(self, folder: Path, desired: KeptDesired) -> None:
        self.desired = desired
        self.flushed: list[tuple[str, str | None]] = []
        self.during: Callable[[str], object] = lambda name: None
        self.manifests: list[list[str]] = []
        statuses = {
            own.name: ProcessStatus(
                own.name, own.role.value, own.url, ProcessState.HEALTHY, incarnation=1
            )
            for own in desired.plan.processes
        }
        fleet: Any = SimpleNamespace(
            statuses=statuses, is_healthy=lambda own: True, write_file=self._write_file
        )
        self.live = Live("demo", desired, fleet, Events(folder / "events.jsonl"))

    @property
    def held(self) -> dict[str, str]:
        return self.live.desired.held

    async def flush(self, client: object, worker: Process, *, limit_s: float) -> None:
        """In place of SGLang's, which refuses while requests come in."""
        why = self.held.get(worker.name)
        if limit_s == chains.IDLE_LIMIT_S:
            raise ClusterError("is not idle.")
        self.during(worker.name)
        self.flushed.append((worker.name, why))

    async def nothing(self, *args: object) -> None:
        """In place of waiting for the gateway and for requests."""

    async def _write_file(self, process: Process, path: str, text: str) -> None:
        self.manifests.append([worker["id"] for worker in json.loads(text)["workers"]])


def desired(**given: Any) -> KeptDesired:
    """The desired state of a cluster that serves."""
    return KeptDesired(PLAN, shipped("full_offload"), Keys("admin"), serving=True, **given)


def flushed_cluster(
    folder: Path, monkeypatch: pytest.MonkeyPatch, found: KeptDesired | None = None
) -> FlushedCluster:
    """A cluster that writes its pages, waits for nobody, and has done with each removal."""
    cluster = FlushedCluster(folder, found or desired())
    monkeypatch.setattr(live_module, "GATEWAY_REMOVAL_S", 0.0)
    monkeypatch.setattr(chains.admin, "flush", cluster.flush)
    for owner, name in (
        (chains, "end_orphans"), (chains, "_writes_fail"), (Live, "wait_gone"),
        (Live, "wait_registered"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, cluster.nothing)
    return cluster
