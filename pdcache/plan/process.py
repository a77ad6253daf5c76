"""A Plan is data: the processes to run, and where each flag came from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pdcache.store.backend import StoreAccess
from pdcache.topology.schema import Mode, Role
from pdcache.topology.setting import Origin


@dataclass(frozen=True)
class Provenance:
    """Who decided one flag, why, and where the YAML changes it."""

    value: Any
    origin: Origin
    reason: str
    path: str


@dataclass(frozen=True)
class Process:
    """One process, complete: what a supervisor needs to run it and a client to reach it.

    Attributes:
        wave: processes of a wave start in parallel, after the wave before is healthy.
        address: IP of its node; ``ray_id`` names the node to Ray.
        url: HTTP base URL, or None when it serves no HTTP.
        ready_path: path under ``url`` that answers 200 once it can do its work.
        health_path: path under ``url`` that answers 200 while it lives, cheap to ask.
        health_port: TCP port that accepts when it is ready, for processes without HTTP.
        gpus: whole GPUs Ray reserves for it.
        memory_bytes: host memory the budget gives it.
        grace_s: seconds between SIGTERM and SIGKILL when it is stopped.
        start_s: seconds it may take to become healthy.
        restart_after_s: seconds to wait before it is started again after it died.
        rank: which of its server's nodes it is; others than 0 serve no requests.
        files: text by path, written on its node before it starts.
        folders: made on its node before it starts.
    """

    name: str
    role: Role
    wave: int
    argv: tuple[str, ...]
    env: dict[str, str]
    ports: dict[str, int]
    address: str
    ray_id: str | None
    url: str | None
    ready_path: str | None
    health_path: str | None
    health_port: int | None
    gpus: int
    memory_bytes: int
    grace_s: float
    start_s: float
    restart_after_s: float = 0.0
    rank: int = 0
    files: dict[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()

    @property
    def server(self) -> str:
        """Name of the server it is a part of: its own, but for further ranks."""
        return self.name.partition("-rank-")[0]

    @property
    def resources(self) -> dict[str, float]:
        """Resources in Ray's words."""
        return {"gpus": self.gpus, "memory_bytes": self.memory_bytes}

    def as_json(self) -> dict[str, Any]:
        """The process under the key names of ``plan --json``."""
        data = asdict(self) | {"resources": self.resources, "argv": list(self.argv)}
        del data["gpus"], data["memory_bytes"]
        return data


@dataclass(frozen=True)
class NodeMemory:
    """Memory needed on a node against what it has, bytes."""

    node: str
    needed_bytes: int
    available_bytes: int
    parts: dict[str, int]


@dataclass(frozen=True)
class KvFormat:
    """All that shapes the bytes and the keys of a page in L3.

    Attributes:
        tp: ranks that share a token's KV (attention TP).
        key_prefix, key_suffixes: stand around the page hash in the names of the page's objects.
        keys_known: whether those names can be predicted.
        key_ranks: ranks that each hold objects of these names (`PageObjects.ranks`).
        token_bytes: KV of a token on one rank; 0 when the model is not at hand.
        l2_tokens: L2, or on decode the staging pool, of one rank; None when it follows from the
            GPU.
    """

    page_size: int
    dtype: str
    layout: str
    io_backend: str
    tp: int
    served_name: str
    namespace: str
    key_prefix: str
    key_suffixes: tuple[str, ...]
    keys_known: bool = True
    key_ranks: int = 1
    token_bytes: int = 0
    l2_tokens: int | None = None


@dataclass(frozen=True)
class Plan:
    """A topology made concrete for the nodes at hand.

    Attributes:
        controller_port: of the controller's endpoint, on loopback of the head node.
        ports: every port by its owner, so that a later plan of the same cluster keeps them.
    """

    name: str
    mode: Mode
    model_path: str
    dtype: str
    processes: tuple[Process, ...]
    memory: tuple[NodeMemory, ...]
    formats: dict[str, KvFormat]
    manifest: str
    temp: str
    python: str
    store: StoreAccess
    endpoint: str
    timeouts: dict[str, float]
    provenance: dict[str, dict[str, Provenance]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    controller_port: int = 0

    def process(self, name: str) -> Process:
        """The process of that name.

        Raises:
            KeyError: there is none.
        """
        for process in self.processes:
            if process.name == name:
                return process
        raise KeyError(name)

    def role(self, role: Role) -> tuple[Process, ...]:
        """All processes of one role that serve requests, in order."""
        return tuple(
            process for process in self.processes if process.role is role and process.rank == 0
        )

    def as_json(self) -> dict[str, Any]:
        """The plan under the key names of ``plan --json``."""
        data = asdict(self)
        data["processes"] = [process.as_json() for process in self.processes]
        return {"schema": 1, **data}


def shares(memory: tuple[NodeMemory, ...]) -> dict[str, int]:
    """Bytes the budget gives to each process, by its name, which stands before every part of it."""
    found: dict[str, int] = {}
    for node in memory:
        for part, size in node.parts.items():
            name = part.partition(" ")[0]
            found[name] = found.get(name, 0) + size
    return found
