"""Every port that pdcache hands out, with the band it comes from.

SGLang 0.5.23 takes ports of its own between 100 and 1,000 above a server's HTTP port
(``PortArgs.init_new``) and Ray takes ephemeral ones, so our bands keep below both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pdcache.errors import PlanError

SERVICE_BAND = range(20000, 21000)
"""Bootstrap servers, Mooncake master and holders, Prometheus of the gateway."""

SERVER_BAND = range(21000, 21100)
"""HTTP of SGLang servers."""

WIDE_SERVER_BAND = range(21000, 21100, 8)
"""The same with DP attention, where a server takes seven ports in a row far above its own."""

MEETING_BAND = range(20800, 21000, 16)
"""Where the ranks of a server that spans nodes meet; it takes up to 13 ports above."""


class Ports:
    """Hands out each port once; a port given by the user must be free.

    Args:
        reserved: ports the user gives to some process: never chosen for another.
        before: the book of an earlier plan of the same cluster: who asks again gets the same port,
            which that cluster has in use.

    Attributes:
        book: every port handed out, by its owner and how many that owner had before.
    """

    def __init__(
        self,
        free: Callable[[int], bool],
        reserved: Iterable[int] = (),
        before: Mapping[str, int] | None = None,
    ) -> None:
        self._free = free
        self._before = dict(before or {})
        self._taken: set[int] = {*reserved, *self._before.values()}
        self.book: dict[str, int] = {}

    def of(self, owner: str) -> OwnPorts:
        """The ports of one process, or of the store as a whole."""
        return OwnPorts(self, owner)

    def given(self, key: str, port: int, path: str) -> int:
        """A port the user asked for; see `OwnPorts.given`."""
        if self._before.get(key) != port and not self._free(port):
            raise PlanError(
                f"port {port} is in use.",
                where=path,
                remedy=f"Stop what listens there, or choose another with --set {path}=PORT.",
            )
        return self._hand_out(key, port)

    def choose(self, key: str, band: range) -> int:
        """The port it had, or the first free one of a band; see `OwnPorts.choose`."""
        if self._before.get(key) in band:
            return self._hand_out(key, self._before[key])
        for port in band:
            if port not in self._taken and self._free(port):
                return self._hand_out(key, port)
        raise PlanError(
            f"no free port between {band.start} and {band.stop - 1}.",
            remedy="Stop other clusters (`pdcache status`), or give ports in the topology.",
        )

    def _hand_out(self, key: str, port: int) -> int:
        self._taken.add(port)
        self.book[key] = port
        return port


class OwnPorts:
    """The ports of one owner, in the order in which it asks for them."""

    def __init__(self, ports: Ports, owner: str) -> None:
        self._ports, self._owner, self._count = ports, owner, 0

    def given(self, port: int, path: str) -> int:
        """A port the user asked for.

        Raises:
            PlanError: it is in use on this machine.
        """
        return self._ports.given(self._key(), port, path)

    def service(self) -> int:
        """A free port for a service."""
        return self.choose(SERVICE_BAND)

    def choose(self, band: range) -> int:
        """A free port of a band.

        Raises:
            PlanError: the band is used up.
        """
        return self._ports.choose(self._key(), band)

    def _key(self) -> str:
        self._count += 1
        return f"{self._owner}/{self._count - 1}"
