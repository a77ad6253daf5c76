"""A Ray head of our own, for when no Ray cluster is given, and the way into any Ray cluster."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from pdcache.cluster.environment import cluster_environment, process_environment
from pdcache.cluster.preload import preload_command, server_to_preload
from pdcache.cluster.record import Record, cluster_folder, log_file, write_secret
from pdcache.cluster.supervised import SUPERVISOR, tail
from pdcache.cluster.sweep import end_marked, started
from pdcache.errors import ClusterError
from pdcache.plan.process import Plan

RAY_HEAD = "pdcache.cluster.ray_head"
STARTED = "Ray is started."
"""What it says once it is ready; it is not imported, for Ray comes with it."""


def start_head(plan: Plan, cluster_id: str, created_s: float, *, limit_s: float) -> Record:
    """Start a Ray head on this machine under a supervisor that outlives this command.

    A server that those of the plan can be forks of is preloaded meanwhile.

    Raises:
        ClusterError: it did not come up within ``limit_s``; nothing of it is left.
    """
    name = plan.name
    folder = cluster_folder(name)
    token = folder / "ray_token"
    write_secret(token, secrets.token_hex(32))
    temp_dir = tempfile.mkdtemp(prefix="pdc-")
    port = _free_port()
    log = log_file(name, "ray")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", RAY_HEAD, str(port), temp_dir]
    with open(log, "wb") as output:
        head = subprocess.Popen(
            [sys.executable, "-S", "-E", str(SUPERVISOR), "-1", "8", *_beside(plan, cluster_id),
             "--", *command],
            env={**os.environ, **cluster_environment(cluster_id, str(token))},
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
            start_new_session=True,
        )  # fmt: skip
    record = Record(
        name=name, id=cluster_id, address=f"127.0.0.1:{port}", token_file=str(token),
        temp_dir=temp_dir, scratch_dir=plan.temp, head_pid=head.pid, head_started=started(head.pid),
        created_s=created_s,
    )  # fmt: skip
    record.save()
    deadline = time.monotonic() + limit_s
    _import_ray(record)  # a second of this process, while the head needs several
    while STARTED not in (text := log.read_text(errors="replace")):
        if head.poll() is not None or time.monotonic() > deadline:
            text = log.read_text(errors="replace")
            end_head(record)
            record.remove()
            state = "ended" if head.poll() is not None else f"was not up after {limit_s:.0f} s"
            raise ClusterError(
                f"the local Ray head {state}.",
                where=str(log),
                log_tail=tail(log) or text,
                remedy="See its log above; `pdcache doctor` and free memory are good first looks.",
            )
        time.sleep(0.1)
    return record


def _beside(plan: Plan, cluster_id: str) -> list[str]:
    """Words for the supervisor: what is to run beside Ray's head."""
    found = server_to_preload(plan.processes, plan.temp)
    if found is None:
        return []
    process, path = found
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = cluster_folder(plan.name) / "preloaded.json"
    what = {
        "argv": preload_command(path),
        "env": process_environment(process, cluster_id, os.environ),
        "log": str(log_file(plan.name, "preloaded")),
    }
    write_secret(file, json.dumps(what))
    return ["--beside", str(file)]


def end_head(record: Record) -> list[int]:
    """End a head of our own and everything that carries the cluster's mark.

    Returns the pids that could not be ended (none, unless the kernel holds them).
    """
    pid = record.head_pid
    if pid is not None and started(pid) == record.head_started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while started(pid) == record.head_started and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.05)
    left = end_marked(record.id)
    if record.temp_dir:
        shutil.rmtree(record.temp_dir, ignore_errors=True)
    return left


def connect(record: Record, *, limit_s: float) -> Any:
    """Join the record's Ray cluster from this process and return the ``ray`` module.

    Raises:
        ClusterError: nothing answers there within ``limit_s``, or the token is refused.
    """
    host, _, port = record.address.removeprefix("ray://").rpartition(":")
    _reach(host, int(port), record, limit_s)
    ray = _import_ray(record)
    if ray.is_initialized():
        return ray
    messages_to_stderr()
    try:
        ray.init(
            address=record.address, namespace=record.namespace, log_to_driver=False,
            logging_level="ERROR", configure_logging=False,
        )  # fmt: skip
    except Exception as error:
        raise ClusterError(
            f"cannot join the Ray cluster at {record.address}: {_first_line(error)}",
            remedy="Check that it runs the same Ray version and, with token auth, that "
            "RAY_AUTH_TOKEN_PATH names its token.",
        ) from None
    return ray


def _import_ray(record: Record) -> Any:
    """Ray, which reads from the environment how this cluster wants it."""
    os.environ.update(cluster_environment(record.id, record.token_file))
    os.environ.pop("RAY_ADDRESS", None)
    import ray

    return ray


def messages_to_stderr() -> None:
    """Keep stdout for results: Ray prints there what happens to nodes.

    It does so for every program that is connected, with ``log_to_driver=False`` too (ray 2.60
    ``_private/worker.py``, ``listen_error_messages``).
    """
    from ray._private import worker

    tell = worker.print_to_stdstream
    if hasattr(tell, "__wrapped__"):
        return

    @functools.wraps(tell)
    def on_stderr(data: dict[str, Any], *args: Any, **named: Any) -> None:
        tell({**data, "is_err": True}, *args, **named)

    worker.print_to_stdstream = on_stderr


def _reach(host: str, port: int, record: Record, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            with socket.create_connection((host, port), timeout=3):
                return
        except OSError as error:
            gone = record.head_pid is not None and started(record.head_pid) is None
            if gone or time.monotonic() + 0.5 > deadline:
                raise ClusterError(
                    f"no Ray cluster answers at {record.address} ({error}).",
                    remedy=f"Its head is gone: `pdcache down {record.name}` cleans up."
                    if gone
                    else "Check RAY_ADDRESS (host:port of the head), or unset it for a local head.",
                ) from None
        time.sleep(0.5)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
