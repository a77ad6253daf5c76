"""Whether one process answers, asked again and again from its own node."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass

import httpx

from pdcache.plan.process import Process
from pdcache.sglang.keys import Keys
from pdcache.topology.schema import Role

EVERY_S = 1.0
LIMIT_S = 1.0
"""While it is asked nobody looks whether the process is frozen."""


@dataclass(frozen=True)
class Silence:
    """What a process did not answer the last time it was asked.

    Attributes:
        missing: what is missing; None: it answered.
        looks: how many looks in a row found it so.
    """

    missing: str | None = None
    looks: int = 0

    @property
    def refuses(self) -> bool:
        """Whether a process that runs said itself that it takes no more requests.

        SGLang answers 503 while it finishes its requests after a SIGTERM (sglang 0.5.23
        ``entrypoints/http_server.py``, ``health_generate``).
        """
        return self.missing is not None and self.missing.endswith(": HTTP 503")


NOT_ASKED = Silence()


class Pulse:
    """Asks one process for its health, once a second at most, over one connection.

    `look` may be called from several threads: one of them asks, the others get what is known.

    Attributes:
        known: what the last look found.
    """

    def __init__(self, process: Process, keys: Keys) -> None:
        self._process = process
        store = process.role is Role.STORE
        self._client = httpx.Client(
            timeout=LIMIT_S, trust_env=False, headers={} if store else keys.headers()
        )
        self._asking = threading.Lock()
        self._asked_s = 0.0
        self.known = NOT_ASKED

    def look(self) -> Silence:
        """What is known now; asks when the last time is `EVERY_S` ago."""
        if self._asking.acquire(blocking=False):
            try:
                if time.monotonic() - self._asked_s >= EVERY_S:
                    missing = self._missing()
                    self.known = Silence(missing, self.known.looks + 1 if missing else 0)
                    self._asked_s = time.monotonic()
            finally:
                self._asking.release()
        return self.known

    def close(self) -> None:
        """Close the connection; a look that waits for an answer gets none."""
        self._client.close()

    def _missing(self) -> str | None:
        process = self._process
        if process.url is not None and process.health_path is not None:
            url = process.url + process.health_path
            try:
                status = self._client.get(url).status_code
            except (httpx.HTTPError, RuntimeError) as error:
                return f"{url}: {type(error).__name__}"
            return None if status == 200 else f"{url}: HTTP {status}"
        if process.health_port is not None:
            return _port_missing(process.address, process.health_port)
        return None


def _port_missing(address: str, port: int) -> str | None:
    try:
        connection = socket.create_connection((address, port), timeout=LIMIT_S)
    except OSError as error:
        return f"{address}:{port}: {error or type(error).__name__}"
    with contextlib.suppress(OSError):
        connection.close()
    return None
