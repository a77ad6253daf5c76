"""Whether a process of a plan is ready: by its own acknowledgement, never by waiting a while."""

from __future__ import annotations

import asyncio
import contextlib

import httpx

from pdcache.plan.process import Process


async def ready(process: Process, client: httpx.AsyncClient) -> str | None:
    """None when the process can do its work, else what is missing."""
    return await _probe(process, process.ready_path, client)


async def alive(process: Process, client: httpx.AsyncClient) -> str | None:
    """None when the process answers, else what it does not answer."""
    return await _probe(process, process.health_path, client)


async def _probe(process: Process, path: str | None, client: httpx.AsyncClient) -> str | None:
    if process.url is not None and path is not None:
        return await _http_ready(process.url + path, client)
    if process.health_port is not None:
        return await _port_ready(process.address, process.health_port)
    return None


async def _http_ready(url: str, client: httpx.AsyncClient) -> str | None:
    try:
        response = await client.get(url)
    except httpx.HTTPError as error:
        return f"{url}: {type(error).__name__}"
    return None if response.status_code == 200 else f"{url}: HTTP {response.status_code}"


async def _port_ready(address: str, port: int) -> str | None:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), timeout=2)
    except (OSError, TimeoutError) as error:
        return f"{address}:{port}: {error or 'no answer'}"
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return None
