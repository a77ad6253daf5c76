"""Who may ask a cluster what: one key for its gateway, one for the administration of its workers.

SGLang 0.5.23 shows the keys of its command line in its log and in ``/server_info``, so they are in
a file that only their owner can read; `pdcache.sglang.keys_plugin` hands them to the server.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from pdcache.plan.process import Plan, Process

ADMIN_PATHS = ("/flush_cache", "/hicache/", "/abort_request", "/freeze_gc", "/pause_generation")
"""What pdcache asks of workers that needs the admin key (sglang 0.5.23 ``AuthLevel``)."""


@dataclass(frozen=True)
class Keys:
    """The keys of one cluster; they show in no text made of this object.

    Attributes:
        admin: for flush, attach, detach and the like on workers.
        gateway: what clients send as a bearer, and the gateway to workers; None: nobody has to.
    """

    admin: str = field(repr=False)
    gateway: str | None = field(default=None, repr=False)

    def text(self) -> str:
        """What stands in the file."""
        return json.dumps(asdict(self))

    def headers(self) -> dict[str, str]:
        """What a client of the gateway sends."""
        return _bearer(self.gateway)


def new_keys(gateway: str | None) -> Keys:
    """Keys for a new cluster: the admin key is made, the gateway's is given."""
    return Keys(secrets.token_urlsafe(32), gateway)


def read_keys(path: Path) -> Keys:
    """The keys of a file.

    Raises:
        OSError, ValueError, TypeError: it cannot be read, or holds none.
    """
    return Keys(**json.loads(path.read_text()))


class ClusterAuth(httpx.Auth):
    """Gives every request of an HTTP client the key that its target wants, and no other."""

    def __init__(self, plan: Callable[[], Plan], keys: Keys) -> None:
        self._plan, self._keys = plan, keys
        self._known: tuple[Plan | None, dict[str | None, Process]] = None, {}

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Set the header by address and path; processes of the store get none."""
        at = f"{request.url.scheme}://{request.url.netloc.decode()}"
        own = self._processes().get(at)
        if own is not None and own.role.value != "store":
            paths = ("/workers",) if own.role.value == "gateway" else ADMIN_PATHS
            admin = request.url.path.startswith(paths)
            request.headers.update(_bearer(self._keys.admin if admin else self._keys.gateway))
        yield request

    def _processes(self) -> dict[str | None, Process]:
        """By their URL; made once for each plan, for a plan of many is asked very often."""
        plan, (known, found) = self._plan(), self._known
        if plan is not known:
            found = {process.url: process for process in reversed(plan.processes)}
            self._known = plan, found
        return found


def _bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}
