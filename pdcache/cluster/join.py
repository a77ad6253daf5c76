"""Where a cluster runs: the Ray cluster of RAY_ADDRESS, or a local head of our own."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

from pdcache.cluster.head import connect, start_head
from pdcache.cluster.nodes import ray_nodes
from pdcache.cluster.record import Record, find, name_taken, new_id, now_s
from pdcache.errors import ClusterError
from pdcache.plan.process import Plan
from pdcache.topology.facts import Node

FREED_S = 5.0
"""How long Ray may take to free the names of actors that were ended a moment ago."""

POLL_S = 0.2


def refuse_second(name: str) -> None:
    """A name is up once.

    Raises:
        ClusterError: a cluster of that name is up.
    """
    if find(name) is not None:
        raise ClusterError(
            f"a cluster named {name!r} is up already.",
            remedy=f"See `pdcache status {name}`; end it with `pdcache down {name}`, or bring this "
            "one up under another name with --name.",
        )


def given_nodes(name: str, limit_s: float) -> tuple[Record, tuple[Node, ...]] | None:
    """The Ray cluster of RAY_ADDRESS with its nodes, or None when none is given.

    Raises:
        ClusterError: RAY_ADDRESS is set and nothing answers there, or a cluster of that name, from
            wherever it was started, is up there.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return None
    if address == "auto" or ":" not in address:
        raise ClusterError(
            f"RAY_ADDRESS is {address!r}.",
            where="RAY_ADDRESS",
            remedy="Give host:port of the Ray head (port 6379 by default), or unset it.",
        )
    record = Record(
        name=name, id=new_id(), address=address,
        token_file=os.environ.get("RAY_AUTH_TOKEN_PATH"), temp_dir=None, scratch_dir=None,
        head_pid=None, head_started=None, created_s=now_s(),
    )  # fmt: skip
    ray = connect(record, limit_s=limit_s)
    _refuse_taken(ray, record)
    return record, ray_nodes(ray)


def _refuse_taken(ray: Any, record: Record) -> None:
    deadline = time.monotonic() + FREED_S
    while any(
        actor["namespace"] == record.namespace
        for actor in ray.util.list_named_actors(all_namespaces=True)
    ):
        if time.monotonic() > deadline:
            raise name_taken(record.name)
        time.sleep(POLL_S)


def start_local(plan: Plan, limit_s: float) -> Record:
    """A local Ray head for one cluster."""
    return start_head(plan, new_id(), now_s(), limit_s=limit_s)


def use_given(record: Record, scratch: str) -> Record:
    """Take a given Ray cluster for a cluster of ours."""
    record = replace(record, scratch_dir=scratch)
    record.save()
    return record
