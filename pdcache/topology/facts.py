"""What is known about the world outside the YAML when it is checked and planned.

Checks and plans are functions of a Topology and these facts only, so the same input gives the
same output on every machine.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from pdcache.topology.schema import Topology

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
        rdma: its RDMA devices; None: unknown.
    """

    address: str = "127.0.0.1"
    memory_bytes: int = 16 * GIB
    cpus: int = 2
    gpus: int = 0
    ray_id: str | None = None
    rdma: tuple[str, ...] | None = None


@dataclass(frozen=True)
class LayerKv:
    """What one attention layer keeps of a token, in numbers, K and V together.

    Attributes:
        heads: KV heads, which tensor parallelism deals out to the ranks; 1 under MLA.
        head_values: numbers that one head keeps.
        shared: MLA's latent vector: every rank keeps it whole.
        window: the layer attends to the last ``window`` tokens only; 0: to all.
    """

    heads: int
    head_values: int
    shared: bool = False
    window: int = 0

    @property
    def values(self) -> int:
        """Numbers of the whole layer, each counted once."""
        return self.heads * self.head_values

    def rank_values(self, tp: int) -> int:
        """Numbers on one of ``tp`` ranks.

        With more ranks than heads each rank keeps a head (sglang 0.5.23 configs/model_config.py,
        ``get_num_kv_heads``). Where ``tp`` does not divide the heads SGLang refuses to start; this
        is then the even share.
        """
        ranks = 1 if self.shared else tp
        return -(-max(self.heads, ranks) * self.head_values // ranks)


def rank_kv_values(layers: Sequence[LayerKv], tp: int, pp: int = 1) -> int:
    """Numbers that one token keeps on one rank, on the pipeline stage that keeps most.

    The last stages are those with one layer more (sglang 0.5.23 distributed/utils.py,
    ``get_pp_indices``). ``tp`` is SGLang's attention TP: ``tp_size // attn_dp_size``.
    """
    values = [layer.rank_values(tp) for layer in layers]
    size, longer = divmod(len(values), pp)
    bounds = [stage * size + max(0, stage - (pp - longer)) for stage in range(pp + 1)]
    return max(sum(values[start:end]) for start, end in pairwise(bounds))


@dataclass(frozen=True)
class ModelView:
    """What is known of one model folder without loading it.

    Attributes:
        path: what the server gets as ``--model-path``.
        kv_values_per_token: numbers kept per token over all layers, K and V together; 0 if unknown.
        kv_layers: what each layer keeps, in order; empty if unknown.
        parameters: number of weights; 0 if unknown.
        weight_bytes: size of the weights as stored; 0 if unknown.
        max_positions: longest context in tokens; 0 if unknown.
        is_mla: the KV is the same on every rank.
        weights_digest, tokenizer_digest: equal only for equal content.
        known: the model is not on this machine; its numbers are those that pdcache ships.
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
    kv_layers: tuple[LayerKv, ...] = ()
    known: bool = False
    weight_bytes: int = 0

    def rank_kv_values(self, tp: int, pp: int = 1) -> int:
        """Numbers, K and V together, that one token keeps on one rank; 0 if unknown.

        Of ``pp`` pipeline stages the one that keeps most. Layers with a window count in full.
        """
        if self.kv_layers:
            return rank_kv_values(self.kv_layers, tp, pp)
        ranks = pp if self.is_mla else tp * pp
        return -(-self.kv_values_per_token // ranks)


@dataclass(frozen=True)
class Facts:
    """Nodes, models and separate tokenizers by their path in the YAML, folders, and free ports.

    ``temp`` is short because sockets live there; ``python`` is the interpreter of the servers;
    ``code`` is what a ``dynamic`` store sends; ``missing`` are Python packages known not to be
    there.
    """

    nodes: tuple[Node, ...] = (Node(),)
    home: Path = field(default_factory=lambda: pdcache_home())
    port_free: Callable[[int], bool] = lambda port: True
    python: str = "python"
    temp: Path = field(default_factory=lambda: temp_folder())
    models: Mapping[str, ModelView] = field(default_factory=dict)
    tokenizers: Mapping[str, ModelView] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()


def pdcache_home() -> Path:
    """Folder of cluster records, logs and manifests: ``PDCACHE_HOME`` or ``~/.pdcache``."""
    return Path(os.environ.get("PDCACHE_HOME") or Path.home() / ".pdcache")


def temp_folder() -> Path:
    """Where sockets and key files of clusters are; another home has another folder."""
    name = f"pdcache-{os.getuid()}"
    if home := os.environ.get("PDCACHE_HOME"):
        name += "-" + hashlib.blake2b(os.path.realpath(home).encode(), digest_size=4).hexdigest()
    return Path("/tmp") / name


def local_node() -> Node:
    """This machine; RAM is bounded by the cgroup's limit when there is one."""
    import psutil

    memory = int(psutil.virtual_memory().total)
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists():
        text = limit.read_text().strip()
        if text.isdigit():
            memory = min(memory, int(text))
    return Node(
        memory_bytes=memory, cpus=os.cpu_count() or 1, gpus=_gpu_count(), rdma=_rdma_devices()
    )


def meant_nodes(topology: Topology) -> tuple[Node, ...]:
    """The nodes that a topology is meant for, under made-up addresses; empty when it names none."""
    nodes = topology.nodes
    if nodes is None:
        return ()
    return tuple(
        Node(
            address=f"10.0.{i // 250}.{i % 250 + 1}" if nodes.count > 1 else "127.0.0.1",
            memory_bytes=int(nodes.memory_gb * 1e9),
            gpus=nodes.gpus,
        )
        for i in range(nodes.count)
    )


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


def _rdma_devices() -> tuple[str, ...]:
    devices = Path("/sys/class/infiniband")
    return tuple(sorted(path.name for path in devices.iterdir())) if devices.is_dir() else ()
