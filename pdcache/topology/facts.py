"""What is known about the world outside the YAML when it is checked and planned.

Checks and plans are functions of a Topology and these facts only, so the same input gives the
same output on every machine.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

GIB = 1 << 30


@dataclass(frozen=True)
class Node:
    """A machine that can run workers.

    Attributes:
        address: IP that the other nodes reach it by.
        memory_bytes: RAM.
        cpus: logical cores.
        gpus: GPUs of the node.
        ray_id: Ray's node id, when the node is part of a Ray cluster.
    """

    address: str = "127.0.0.1"
    memory_bytes: int = 16 * GIB
    cpus: int = 2
    gpus: int = 0
    ray_id: str | None = None


@dataclass(frozen=True)
class ModelView:
    """What is known of one model folder without loading it.

    Attributes:
        path: what the server gets as ``--model-path``.
        kv_values_per_token: numbers kept per token over all layers, K and V together; 0 if unknown.
        parameters: number of weights; 0 if unknown.
        max_positions: longest context in tokens; 0 if unknown.
        is_mla: the KV is the same on every rank.
        weights_digest, tokenizer_digest: equal only for equal content.
        problem: why the model cannot be used, or None.
        remedy: how to mend the problem.
    """

    path: str
    kv_values_per_token: int = 0
    parameters: int = 0
    max_positions: int = 0
    is_mla: bool = False
    weights_digest: str = ""
    tokenizer_digest: str = ""
    problem: str | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class Facts:
    """Nodes, models and separate tokenizers by their path in the YAML, folders, and free ports.

    ``temp`` is short because sockets live there; ``python`` is the interpreter of the servers.
    """

    nodes: tuple[Node, ...] = (Node(),)
    home: Path = field(default_factory=lambda: pdcache_home())
    port_free: Callable[[int], bool] = lambda port: True
    python: str = "python"
    temp: Path = field(default_factory=lambda: Path("/tmp") / f"pdcache-{os.getuid()}")
    models: Mapping[str, ModelView] = field(default_factory=dict)
    tokenizers: Mapping[str, ModelView] = field(default_factory=dict)


def pdcache_home() -> Path:
    """Folder of cluster records, logs and manifests: ``PDCACHE_HOME`` or ``~/.pdcache``."""
    return Path(os.environ.get("PDCACHE_HOME") or Path.home() / ".pdcache")


def local_node() -> Node:
    """This machine; RAM is bounded by the cgroup's limit when there is one."""
    import psutil

    memory = int(psutil.virtual_memory().total)
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists():
        text = limit.read_text().strip()
        if text.isdigit():
            memory = min(memory, int(text))
    return Node(memory_bytes=memory, cpus=os.cpu_count() or 1, gpus=_gpu_count())


def port_is_free(port: int) -> bool:
    """Whether a TCP port can be bound on all interfaces at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _gpu_count() -> int:
    gpus = Path("/proc/driver/nvidia/gpus")
    return len(list(gpus.iterdir())) if gpus.is_dir() else 0
