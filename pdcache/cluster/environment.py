"""Environments: of Ray and all that it starts, and of the processes of a plan."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from pdcache.cluster.record import CLUSTER_ENV
from pdcache.plan.process import Process


def cluster_environment(cluster_id: str, token_file: str | None) -> dict[str, str]:
    """Variables that every process of the cluster inherits."""
    env = {
        CLUSTER_ENV: cluster_id,
        # Without it setproctitle writes over the environment that the sweep reads.
        "SPT_NOENV": "1",
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Servers inherit the niceness of Ray's workers, which is 15 by default.
        "RAY_worker_niceness": "0",
    }
    if token_file is not None:
        env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token_file}
    return env


def process_environment(
    process: Process, cluster_id: str, own: Mapping[str, str]
) -> dict[str, str]:
    """The whole environment of a planned process; `own` is that of who starts it."""
    # A server must not take itself for a part of Ray, nor find its token.
    env = {name: value for name, value in own.items() if not name.startswith("RAY_")}
    env["PYTHONUNBUFFERED"] = "1"
    # SGLang and torch look for tools (ninja) that stand beside the interpreter.
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', '')}"
    env[CLUSTER_ENV] = cluster_id
    env["SPT_NOENV"] = "1"
    paths = [process.env.get("PYTHONPATH"), own.get("PYTHONPATH")]
    env |= process.env
    if any(paths):
        env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return env
