"""Every port that pdcache hands out, with the band it comes from.

SGLang 0.5.23 takes ports of its own between 100 and 1,000 above a server's HTTP port
(``PortArgs.init_new``) and Ray takes ephemeral ones, so our bands keep below both.

A port is handed out once in a cluster for as long as its band has one left, so that a number names
one process. In a cluster with more processes than that it is handed out once on each node.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping

from pdcache.errors import PlanError

SERVICE_BAND = range(20000, 21000)
"""Bootstrap servers, Mooncake master and holders, Prometheus of the gateway."""

SERVER_BAND = range(21000, 21100)
"""HTTP of SGLang servers."""

WIDE_SERVER_BAND = range(21000, 21100, 8)
"""The same with DP attention, where a server takes seven ports in a row far above its own."""

MEETING_BAND = range(20800, 21000, 16)
"""Where the ranks of a server that spans nodes meet; it takes up to 13 ports above."""


SPARE = 50
"""The last of so many parts of a band is left to those whose node is not known."""


class Ports:
    """Hands out each port once, on a node at least; a port given by the user must be free.

    Args:
        reserved: ports the user gives to some process: never chosen for another.
        before: the book of an earlier plan of the same cluster: who asks again gets the same port,
            which that cluster has in use.
        nodes_before: the node of each owner in that plan, where it belongs to one.

    Attributes:
        book: every port handed out, by its owner and how many that owner had before.
    """

    def __init__(
        self,
        free: Callable[[int], bool],
        reserved: Iterable[int] = (),
        before: Mapping[str, int] | None = None,
        nodes_before: Mapping[str, str] | None = None,
    ) -> None:
        self._free = free
        self._before = dict(before or {})
        self._nodes_before = dict(nodes_before or {})
        self._taken: set[int] = {*reserved, *self._before.values()}
        self._everywhere: set[int] = {*reserved}
        self._on_node: dict[str, set[int]] = {}
        self.book: dict[str, int] = {}
        for key, port in self._before.items():
            self._note(port, self._node_before(key))

    def of(self, owner: str, node: str | None = None) -> OwnPorts:
        """The ports of one process, or of the store as a whole.

        Args:
            node: address of the only node where they are listened on; None: not known.
        """
        return OwnPorts(self, owner, node)

    def given(self, key: str, port: int, path: str, node: str | None = None) -> int:
        """A port the user asked for; see `OwnPorts.given`."""
        if self._before.get(key) != port and not self._free(port):
            raise PlanError(
                f"port {port} is in use.",
                where=path,
                remedy=f"Stop what listens there, or choose another with --set {path}=PORT.",
            )
        return self._hand_out(key, port, node)

    def choose(self, key: str, band: range, node: str | None = None) -> int:
        """The port it had, or the first free one of a band; see `OwnPorts.choose`."""
        had = self._before.get(key)
        if had is not None and had in band and not self._lost(key, had, node):
            return self._hand_out(key, had, node)
        alone = band if node is None else band[: len(band) - len(band) // SPARE]
        port = self._first(alone, self._taken)
        if port is None and node is not None:
            port = self._first(band, self._everywhere | self._on_node.get(node, set()))
        if port is None:
            raise PlanError(
                f"no free port between {band.start} and {band.stop - 1}.",
                remedy="Stop other clusters (`pdcache status`), or give ports in the topology.",
            )
        return self._hand_out(key, port, node)

    def _lost(self, key: str, port: int, node: str | None) -> bool:
        """Whether an owner has moved to a node where another one has its number."""
        if node is None or self._node_before(key) in (None, node):
            return False
        return port in self._on_node.get(node, ())

    def _node_before(self, key: str) -> str | None:
        return self._nodes_before.get(key.rpartition("/")[0])

    def _first(self, band: range, taken: Container[int]) -> int | None:
        return next((port for port in band if port not in taken and self._free(port)), None)

    def _hand_out(self, key: str, port: int, node: str | None) -> int:
        self._note(port, node)
        self.book[key] = port
        return port

    def _note(self, port: int, node: str | None) -> None:
        self._taken.add(port)
        taken = self._everywhere if node is None else self._on_node.setdefault(node, set())
        taken.add(port)


class OwnPorts:
    """The ports of one owner, in the order in which it asks for them."""

    def __init__(self, ports: Ports, owner: str, node: str | None) -> None:
        self._ports, self._owner, self._node, self._count = ports, owner, node, 0

    def given(self, port: int, path: str) -> int:
        """A port the user asked for.

        Raises:
            PlanError: it is in use on this machine.
        """
        return self._ports.given(self._key(), port, path, self._node)

    def service(self, node: str | None = None) -> int:
        """A free port for a service; of an owner on several nodes, for the one at an address."""
        return self.choose(SERVICE_BAND, node)

    def choose(self, band: range, node: str | None = None) -> int:
        """A free port of a band.

        Raises:
            PlanError: the band is used up.
        """
        return self._ports.choose(self._key(), band, node or self._node)

    def _key(self) -> str:
        self._count += 1
        return f"{self._owner}/{self._count - 1}"
