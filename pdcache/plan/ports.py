"""Every port that pdcache hands out, with the band it comes from.

SGLang 0.5.23 takes ports of its own between 100 and 1,000 above a server's HTTP port
(``PortArgs.init_new``) and Ray takes ephemeral ones, so our bands keep below both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
    """

    def __init__(self, free: Callable[[int], bool], reserved: Iterable[int] = ()) -> None:
        self._free = free
        self._taken: set[int] = set(reserved)

    def given(self, port: int, path: str) -> int:
        """A port the user asked for.

        Raises:
            PlanError: it is in use on this machine.
        """
        if not self._free(port):
            raise PlanError(
                f"port {port} is in use.",
                where=path,
                remedy=f"Stop what listens there, or choose another with --set {path}=PORT.",
            )
        self._taken.add(port)
        return port

    def service(self) -> int:
        """The first free port for a service."""
        return self.choose(SERVICE_BAND)

    def choose(self, band: range) -> int:
        """The first free port of a band.

        Raises:
            PlanError: the band is used up.
        """
        for port in band:
            if port not in self._taken and self._free(port):
                self._taken.add(port)
                return port
        raise PlanError(
            f"no free port between {band.start} and {band.stop - 1}.",
            remedy="Stop other clusters (`pdcache status`), or give ports in the topology.",
        )
