"""A ground to lay a store out on: a topology, addresses, and ports that count up from 20000."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from pdcache.store.backend import Ground, PageObjects, PageShape, StoreLayout
from pdcache.store.registry import BACKENDS
from pdcache.topology import Topology, parse_topology

FOLDER = "/home/u/.pdcache/clusters/small"


class CountingPorts:
    """Hands out 20000, 20001, …; remembers which ports were given by which key."""

    def __init__(self) -> None:
        self._numbers = count(20000)
        self.by_key: list[tuple[str, int]] = []

    def given(self, port: int, path: str) -> int:
        """A port the user asked for."""
        self.by_key.append((path, port))
        return port

    def service(self, node: str | None = None) -> int:
        """The next port."""
        return next(self._numbers)


def topology_of(store: str, *, device: str = "cpu") -> Topology:
    """A small cluster with a store section in YAML's flow style."""
    text = f"name: small\nmode: full_offload\ndevice: {device}\nmodel: {{path: tiny-random}}\n"
    return parse_topology(f"{text}store: {store}", source="t.yaml")


def ground_of(
    store: str,
    *,
    device: str = "cpu",
    addresses: tuple[str, ...] = ("10.0.0.1",),
    code: Mapping[str, str] | None = None,
) -> Ground:
    """What the backend of a store section is laid out on."""
    return Ground(
        topology=topology_of(store, device=device),
        addresses=addresses,
        ports=CountingPorts(),
        folder=FOLDER,
        binary=lambda name: f"/bin/{name}",
        python="/bin/python",
        code=code or {},
    )


def layout_of(ground: Ground) -> StoreLayout:
    """The store laid out by its backend."""
    return BACKENDS[ground.topology.store.backend].lay_out(ground)


def objects_of(
    store: str,
    *,
    layout: str = "page_first_direct",
    tp: int = 1,
    pp: int = 1,
    is_mla: bool = False,
) -> PageObjects:
    """The objects of one page of ``org/model`` in namespace kv1."""
    section = topology_of(store).store
    shape = PageShape("kv1", "org/model", layout, tp, pp, is_mla)
    return BACKENDS[section.backend].page_objects(shape, section)
