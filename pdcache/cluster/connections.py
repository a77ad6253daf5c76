"""HTTP connections to many servers: each server has a pool of its own.

httpx (httpcore 1.0, ``_sync/connection_pool.py``) looks at every idle connection of a pool for each
request, asks the kernel whether it is still open, and keeps 20. With 100 servers in one pool a
request costs three to nine times the CPU, and most connections are opened anew.
"""

from __future__ import annotations

import ssl

import httpx

IDLE_S = 3.0
"""SGLang's server closes a connection that idles for 5 s (uvicorn's default): ours ends before, so
that no request meets one that is just being closed."""


class PoolPerServer(httpx.AsyncBaseTransport):
    """Sends a request by the pool of its server, which is made when it is first asked."""

    def __init__(self) -> None:
        self._ssl: ssl.SSLContext | None = None
        self._pools: dict[tuple[str, str, int | None], httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it; errors are those of httpx."""
        url = request.url
        server = (url.scheme, url.host, url.port)
        pool = self._pools.get(server)
        if pool is None:
            pool = self._pools[server] = self._pool()
        return await pool.handle_async_request(request)

    async def aclose(self) -> None:
        """Close every connection."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.aclose()

    def _pool(self) -> httpx.AsyncHTTPTransport:
        if self._ssl is None:
            # Some ten milliseconds, so one for all.
            self._ssl = httpx.create_ssl_context(trust_env=False)
        limits = httpx.Limits(max_connections=100, keepalive_expiry=IDLE_S)
        return httpx.AsyncHTTPTransport(verify=self._ssl, trust_env=False, limits=limits)
