"""Whether a process of a plan is ready: by its own acknowledgement, never by waiting a while."""

from __future__ import annotations

import asyncio
import contextlib

import httpx

from pdcache.plan.process import Process
from pdcache.sglang import storage
from pdcache.sglang.keys_plugin import PLACEHOLDER
from pdcache.topology.schema import WORKER_ROLES


async def ready(process: Process, client: httpx.AsyncClient) -> str | None:
    """None when the process can do its work, else what is missing."""
    missing = await _probe(process, process.ready_path, client)
    if missing is None and process.role in WORKER_ROLES and process.rank == 0:
        return await _unguarded(process, client)
    return missing


async def _probe(process: Process, path: str | None, client: httpx.AsyncClient) -> str | None:
    if process.url is not None and path is not None:
        return await _http_ready(process.url + path, client)
    if process.health_port is not None:
        return await _port_ready(process.address, process.health_port)
    return None


async def _unguarded(process: Process, client: httpx.AsyncClient) -> str | None:
    """What is wrong when a server takes the key that everybody knows, or not this cluster's."""
    everybodys = {"Authorization": f"Bearer {PLACEHOLDER}"}
    url = f"{process.url}{storage.PATH}"
    try:
        response = await client.get(url, headers=everybodys, auth=None)
        own = await client.get(url)
    except httpx.HTTPError as error:
        return f"{url}: {type(error).__name__}"
    if own.status_code == 401:
        return f"it refuses this cluster's admin key: another server listens at {url}"
    if response.status_code == 401:
        return None
    return (
        "it does not ask for the cluster's admin key: SGLang has not loaded pdcache's plugin "
        "(is pdcache installed for its interpreter on that node?)"
    )


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
        return f"{address}:{port}: {error or type(error).__name__}"
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return None
