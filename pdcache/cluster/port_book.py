"""Ports that an `up` or a change on this machine has planned and not bound yet.

A server binds its port 10 to 40 s after it was chosen, and another plan made in between would find
it free. So whoever plans writes its ports down until its processes run.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil

from pdcache.errors import ClusterError
from pdcache.topology.facts import port_is_free


class PortBook:
    """The book of this machine and user; entries of processes that are gone count no more."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or Path(tempfile.gettempdir()) / f"pdcache-ports-{os.getuid()}.json"
        self._others: frozenset[int] = frozenset()
        self._taken: list[int] = []

    def free(self, port: int) -> bool:
        """Whether nobody listens there, and nobody else has planned to."""
        return port not in self._others and port_is_free(port)

    @contextlib.contextmanager
    def planning(self) -> Iterator[PortBook]:
        """While it lasts nobody else chooses ports; what `take` got is written down at its end.

        Raises:
            ClusterError: the book cannot be opened.
        """
        with self._locked() as entries:
            own = str(os.getpid())
            others = (entry["ports"] for pid, entry in entries.items() if pid != own)
            self._others = frozenset(port for ports in others for port in ports)
            self._taken = []
            yield self
            entries[own] = {"began": _began(os.getpid()), "ports": self._taken}
            atexit.register(self.close)

    def take(self, ports: Iterable[int]) -> None:
        """These are ours until `close`, or until this process ends."""
        self._taken = sorted({*self._taken, *ports})

    def close(self) -> None:
        """The ports are bound, or are not needed any more; done at the end of the process too."""
        atexit.unregister(self.close)
        with self._locked() as entries:
            entries.pop(str(os.getpid()), None)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[dict[str, dict[str, Any]]]:
        with self._opened() as file:
            entries = _living(file.read())
            try:
                yield entries
            finally:
                if entries:
                    file.seek(0)
                    file.truncate()
                    json.dump(entries, file)
                else:
                    self._path.unlink()

    def _opened(self) -> IO[str]:
        """The file, locked; the one before us may have removed it while we waited."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        while True:
            try:
                file = os.fdopen(os.open(self._path, flags, 0o600), "r+")
            except OSError as error:
                raise ClusterError(
                    f"cannot open the book of planned ports: {error}.",
                    where=str(self._path),
                    remedy="Remove it if it is not yours, or make room on its disk.",
                ) from None
            fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self._path)):
                    return file
            file.close()


def _living(text: str) -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads(text or "{}")
        return {pid: own for pid, own in entries.items() if own["began"] == _began(int(pid))}
    except (ValueError, AttributeError, KeyError, TypeError):
        return {}  # Cut off by a full disk: the ports are looked at anyhow.


def _began(pid: int) -> float | None:
    with contextlib.suppress(psutil.Error):
        return float(psutil.Process(pid).create_time())
    return None
