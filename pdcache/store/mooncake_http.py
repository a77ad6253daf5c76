"""What a Mooncake master's HTTP port tells: health, keys, counts (mooncake 0.3.13)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import httpx

from pdcache.errors import ClusterError

QUERY_BATCH = 64


async def healthy(client: httpx.AsyncClient, store_url: str) -> str | None:
    """None when the master serves, else what is wrong."""
    try:
        response = await client.get(f"{store_url}/health")
    except httpx.HTTPError as error:
        return f"{store_url}/health: {type(error).__name__}"
    return None if response.status_code == 200 else f"{store_url}/health: {response.status_code}"


async def present(client: httpx.AsyncClient, store_url: str, keys: Sequence[str]) -> set[str]:
    """Which of these object keys the store holds complete.

    Raises:
        ClusterError: the master does not answer.
    """
    found: set[str] = set()
    for start in range(0, len(keys), QUERY_BATCH):
        batch = keys[start : start + QUERY_BATCH]
        try:
            response = await client.get(
                f"{store_url}/batch_query_keys", params={"keys": ",".join(batch)}
            )
            response.raise_for_status()
            data = response.json().get("data", {})
        except (httpx.HTTPError, ValueError) as error:
            raise ClusterError(
                f"the store's master did not answer a key query: {error}.", where=store_url
            ) from None
        found |= {key for key, entry in data.items() if entry.get("ok")}
    return found


async def wait_present(
    client: httpx.AsyncClient, store_url: str, keys: Sequence[str], *, limit_s: float
) -> set[str]:
    """Wait until the store holds all keys; returns those still missing at the limit."""
    deadline = time.monotonic() + limit_s
    missing = set(keys)
    while missing := missing - await present(client, store_url, sorted(missing)):
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.1)
    return missing
