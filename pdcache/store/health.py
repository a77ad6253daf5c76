"""Whether a store serves, asked before any worker is pointed at it: SGLang freezes on a bad one."""

from __future__ import annotations

import asyncio
import contextlib

import httpx

from pdcache.store.backend import StoreAccess


async def healthy(client: httpx.AsyncClient, store: StoreAccess) -> str | None:
    """None when the store serves, else what is wrong.

    Of several HTTP addresses one has to answer that it serves: the leading master. A standby of
    mooncake 0.3.13 answers 200 too, with ``"service_ready": false``.
    """
    for address in store.tcp:
        if (ill := await _accepts(address)) is not None:
            return ill
    ills = []
    for url in store.health_urls:
        if (ill := await _serves(client, url)) is None:
            return None
        ills.append(ill)
    return "; ".join(ills) or None


async def _serves(client: httpx.AsyncClient, url: str) -> str | None:
    try:
        response = await client.get(url)
    except httpx.HTTPError as error:
        return f"{url}: {type(error).__name__}"
    if response.status_code != 200:
        return f"{url}: HTTP {response.status_code}"
    with contextlib.suppress(ValueError):
        state = response.json()
        if isinstance(state, dict) and state.get("service_ready") is False:
            return f"{url}: {state.get('role', 'it')} is {state.get('ha_state', 'not ready')}"
    return None


async def _accepts(address: str) -> str | None:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.wait_for(
            asyncio.open_connection(host.strip("[]"), int(port)), timeout=5
        )
    except (OSError, TimeoutError) as error:
        return f"{address}: {error or type(error).__name__}"
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return None
