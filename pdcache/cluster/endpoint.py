"""The controller's HTTP endpoint: health for everybody, status, events and metrics with the key.

It listens on loopback of the head node. ``/health`` tells the state alone; the rest wants the
cluster's admin key as a bearer.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from pdcache.cluster.states import ClusterState, ClusterStatus, ProcessState
from pdcache.sglang.keys import Keys

if TYPE_CHECKING:
    from aiohttp import web

    from pdcache.cluster.events import Events

HOST = "127.0.0.1"
BODY_LIMIT = 1024


class Endpoint:
    """Serves what the controller knows; it changes nothing."""

    def __init__(
        self, status: Callable[[], Awaitable[ClusterStatus]], events: Events, keys: Keys
    ) -> None:
        self._status, self._events, self._keys = status, events, keys
        self._runner: web.AppRunner | None = None

    async def start(self, port: int) -> None:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        from aiohttp import web

        app = web.Application(middlewares=[self._guard()], client_max_size=BODY_LIMIT)
        app.router.add_get("/health", self._health)
        app.router.add_get("/status", self._full_status)
        app.router.add_get("/events", self._all_events)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, port, reuse_address=True).start()

    async def stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _guard(self) -> Any:
        from aiohttp import web

        wanted = f"Bearer {self._keys.admin}".encode()

        @web.middleware
        async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if request.path != "/health" and not hmac.compare_digest(given, wanted):
                return web.json_response(
                    {"error": "send the cluster's admin key as a bearer"},
                    status=401,
                    headers={"WWW-Authenticate": "Bearer"},
                )
            answer: web.StreamResponse = await handler(request)
            return answer

        return guard

    async def _health(self, request: web.Request) -> web.Response:
        from aiohttp import web

        return web.json_response({"state": (await self._status()).state.value})

    async def _full_status(self, request: web.Request) -> web.Response:
        from aiohttp import web

        return web.json_response((await self._status()).as_json())

    async def _all_events(self, request: web.Request) -> web.Response:
        from aiohttp import web

        since = request.query.get("since", "0")
        if not (since.isascii() and since.isdigit() and len(since) < 19):
            return web.json_response({"error": "since is the number of an event"}, status=400)
        events = [event.as_json() for event in self._events.since(int(since))]
        return web.json_response({"schema": 1, "events": events})

    async def _metrics(self, request: web.Request) -> web.Response:
        from aiohttp import web

        return web.Response(text=metrics_text(await self._status()), content_type="text/plain")


def metrics_text(status: ClusterStatus) -> str:
    """The status in the text format of Prometheus."""
    lines = ["# TYPE pdcache_cluster_state gauge"]
    lines += [
        f'pdcache_cluster_state{{cluster="{status.name}",state="{state.value}"}} '
        f"{int(status.state is state)}"
        for state in ClusterState
    ]
    lines += ["# TYPE pdcache_degraded_reasons gauge"]
    lines += [f'pdcache_degraded_reasons{{cluster="{status.name}"}} {len(status.reasons)}']
    labels = [
        f'{{cluster="{status.name}",process="{own.name}",role="{own.role}"}}'
        for own in status.workers
    ]
    lines += ["# TYPE pdcache_process_healthy gauge"]
    lines += [
        f"pdcache_process_healthy{label} {int(own.state is ProcessState.HEALTHY)}"
        for label, own in zip(labels, status.workers, strict=True)
    ]
    lines += ["# TYPE pdcache_process_restarts counter"]
    lines += [
        f"pdcache_process_restarts{label} {own.restarts}"
        for label, own in zip(labels, status.workers, strict=True)
    ]
    return "\n".join(lines) + "\n"
