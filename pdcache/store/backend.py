"""What a storage backend is to a plan: its traits, its processes, and how workers reach it.

A backend is one module of this package with a class that is a `StoreLayout`; `registry` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pdcache.topology.placement import Place
from pdcache.topology.schema import Role, Topology

STORE_CLIENT_WAVE = 2
"""Processes of this wave and later are clients of the store: it has to serve before they start."""

Sharing = Literal["cluster", "shared path", "as its code does"]
Presence = Literal["mooncake", "hf3fs", "files", "unknown"]


@dataclass(frozen=True)
class Traits:
    """What holds for every use of a backend.

    Attributes:
        processes: what pdcache starts for it.
        sharing: how far what one worker writes can be read by others.
        zero_copy: layouts whose pages go to the store as they lie in L2.
        copied: layouts that are served by way of a copy.
        mla: whether it serves MLA models.
        stages: whether its keys tell pipeline stages apart.
        isolation: where the namespace stands.
        health: how one knows that it serves.
        packages: Python packages a worker needs beside SGLang.
    """

    processes: str
    sharing: Sharing
    zero_copy: tuple[str, ...]
    copied: tuple[str, ...]
    isolation: str
    health: str
    mla: bool = True
    stages: bool = True
    packages: tuple[str, ...] = ()

    @property
    def layouts(self) -> tuple[str, ...]:
        """Every layout it serves."""
        return (*self.zero_copy, *self.copied)


@dataclass(frozen=True)
class PageShape:
    """What decides the names of the objects that hold one page.

    ``tp`` counts the ranks that share a token's KV (attention TP).
    """

    namespace: str
    served_name: str
    layout: str
    tp: int
    pp: int
    is_mla: bool

    @property
    def model_name(self) -> str:
        """The served name as SGLang writes it into keys."""
        return self.served_name.replace("/", "-")


@dataclass(frozen=True)
class PageObjects:
    """Object names of a page are prefix + page hash + suffix, for each suffix.

    Attributes:
        known: whether they can be predicted at all.
        ranks: ranks that each hold objects of these names, where a name does not say which rank.
    """

    prefix: str
    suffixes: tuple[str, ...]
    known: bool = True
    ranks: int = 1


@dataclass(frozen=True)
class Service:
    """One process of a store, before it is a process of the plan.

    Attributes:
        imports_sglang: it takes as long to start as a worker.
        restart_after_s: seconds to wait before it is started again after it died.
    """

    argv: tuple[str, ...]
    ports: dict[str, int]
    wave: int
    url: str | None = None
    health_path: str | None = None
    health_port: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    grace_s: float = 3.0
    imports_sglang: bool = False
    restart_after_s: float = 0.0


@dataclass(frozen=True)
class WorkerAccess:
    """How one SGLang server reaches the store.

    Attributes:
        options: keys of ``--hicache-storage-backend-extra-config``.
        files: text by path, written on the worker's node before it starts.
        folders: made on the worker's node before it starts.
    """

    options: Mapping[str, Any]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoreAccess:
    """How others than workers ask a store: whether it serves, and which pages it holds.

    Attributes:
        health_urls: HTTP addresses of which one must answer that it serves; none: nothing to ask.
        tcp: ``host:port`` that must accept a connection.
        presence: how pages are asked for; ``unknown``: they cannot be.
        urls: base URLs to ask for pages, tried in order.
        where: the YAML key that says where the store is.
    """

    backend: str
    presence: Presence
    health_urls: tuple[str, ...] = ()
    tcp: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    where: str = "store"


class PortGiver(Protocol):
    """Hands out ports; `pdcache.plan.ports` is the one."""

    def given(self, port: int, path: str) -> int:
        """A port the user asked for."""

    def service(self, node: str | None = None) -> int:
        """A free port for a service; with an address it need not be free on other nodes."""


@dataclass(frozen=True)
class Ground:
    """What a backend lays its processes out on.

    Attributes:
        addresses: of the nodes, in order.
        folder: for what processes need while the cluster lives; the same path on every node.
        binary: a program that stands beside the interpreter.
        python: the interpreter.
        code: text of the files that a ``dynamic`` store sends to its workers, by relative path.
    """

    topology: Topology
    addresses: tuple[str, ...]
    ports: PortGiver
    folder: str
    binary: Callable[[str], str]
    python: str
    code: Mapping[str, str] = field(default_factory=dict)


class StoreLayout(Protocol):
    """One store of one plan: its ports are chosen, its processes known."""

    def service(self, place: Place) -> Service:
        """The process at a place that `pdcache.topology.placement` gave to the store."""

    def worker(self, address: str, role: Role, namespace: str) -> WorkerAccess:
        """How a server at an address reaches the store."""

    def access(self) -> StoreAccess:
        """How everybody else does."""
