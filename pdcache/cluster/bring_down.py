"""Ends a cluster whatever state it is in, so that nothing of it is left.

Ray's client can hang for ever when its head dies while it is connected (ray 2.60, seen after a
raylet was killed). What goes through Ray is therefore done in a process that can be ended:
``python -m pdcache.cluster.bring_down NAME``.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import Any

from pdcache.cluster import desired
from pdcache.cluster.client import ClusterClient
from pdcache.cluster.head import connect, end_head
from pdcache.cluster.record import Record, find
from pdcache.errors import ClusterError

CONNECT_LIMIT_S = 3.0
BY_RAY_LIMIT_S = 90.0
"""Of all that goes through Ray: a controller may take a minute to end its processes."""


def bring_down(record: Record, *, force: bool = False) -> list[str]:
    """End a cluster whatever state it is in; returns what would not end (nothing, normally).

    Raises:
        ClusterError: it runs on a Ray cluster of the user's that does not answer, so its processes
            cannot be ended; with ``force`` it is forgotten all the same.
    """
    left: list[str] = []
    try:
        left = _end_by_ray(record)
        if (ray := sys.modules.get("ray")) is not None:
            ray.shutdown()
    except ClusterError as error:
        if record.head_pid is None and not force:
            raise ClusterError(
                f"its Ray cluster does not answer, so nothing was ended: {error.message}",
                where=record.name,
                remedy="Try again when it does; if it is gone for good: pdcache down --force.",
            ) from None
        # With a head of our own, its supervisor and the sweep end what is left.
    pids = end_head(record)
    if record.head_pid is not None:
        left = [str(pid) for pid in pids]
    record.remove()
    return left


def _end_by_ray(record: Record) -> list[str]:
    """Ask the controller, or else Ray, to end all processes; returns those that would not.

    Raises:
        ClusterError: the Ray cluster does not answer, or not within the limit.
    """
    command = [sys.executable, "-m", "pdcache.cluster.bring_down", record.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BY_RAY_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise ClusterError(f"no answer within {BY_RAY_LIMIT_S:.0f} s.") from None
    lines = done.stdout.strip().splitlines() or ["{}"]
    answer: dict[str, Any]
    answer = json.loads(lines[-1]) if done.returncode == 0 else {"problem": done.stderr.strip()}
    if "left" not in answer:
        raise ClusterError(answer.get("problem") or f"exit code {done.returncode}")
    left: list[str] = answer["left"]
    return left


def main(name: str) -> None:
    """Print as JSON which processes would not end, or why Ray could not be asked."""
    record = find(name)
    assert record is not None, name
    answer: dict[str, Any]
    try:
        ray = connect(record, limit_s=CONNECT_LIMIT_S)
        answer = {"left": _end(ray, record)}
        ray.shutdown()
    except ClusterError as error:
        answer = {"problem": error.message}
    print(json.dumps(answer))


def _end(ray: Any, record: Record) -> list[str]:
    """End all processes; returns the names that would not end."""
    if desired.is_others(record.name, record.id):
        return []  # A name is only given when nothing of the cluster before is left.
    try:
        return ClusterClient(record, limit_s=CONNECT_LIMIT_S).stop()
    except ClusterError:
        # Without a controller: a process ends when its actor does.
        _kill_actors(ray, record.namespace)
        desired.forget(record.name)
        return []


def _kill_actors(ray: Any, namespace: str) -> None:
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == namespace:
            with contextlib.suppress(ValueError):
                ray.kill(ray.get_actor(actor["name"], namespace=namespace))


if __name__ == "__main__":
    main(sys.argv[1])
