"""Which pages a store holds, asked from outside a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from pdcache.errors import ClusterError
from pdcache.store.backend import StoreAccess

QUERY_BATCH = 64
BAD_ANSWERS = (httpx.HTTPError, ValueError, LookupError, AttributeError, TypeError)
"""What a server that fails, or is another than it should be, makes of a question."""


async def present(
    client: httpx.AsyncClient, store: StoreAccess, keys: Sequence[str], *, ranks: int = 1
) -> set[str]:
    """Which of these objects the store holds complete.

    Args:
        keys: object names as `pdcache.sglang.page_keys.object_keys` predicts them.
        ranks: ranks that each hold such an object, where the name does not say which (hf3fs).

    Raises:
        ClusterError: the store does not answer, or it can hold no answer.
    """
    if store.presence == "files":
        return {key for key in keys if Path(key).is_file()}
    found: set[str] = set()
    problems = []
    for url in store.urls:
        # Of several masters only the leader knows; what any of them knows is there.
        try:
            if store.presence == "mooncake":
                found |= await _in_mooncake(client, url, keys)
            else:
                found |= await _in_hf3fs(client, url, keys, ranks)
        except BAD_ANSWERS as error:
            problems.append(f"{url}: {str(error) or type(error).__name__}")
    if len(problems) == len(store.urls):
        raise ClusterError(
            f"the store did not answer a key query: {'; '.join(problems) or store.presence}.",
            where=store.where,
        )
    return found


async def wait_present(
    client: httpx.AsyncClient,
    store: StoreAccess,
    keys: Sequence[str],
    *,
    limit_s: float,
    ranks: int = 1,
) -> set[str]:
    """Wait until the store holds all keys; returns those still missing at the limit."""
    deadline = time.monotonic() + limit_s
    missing = set(keys)
    while missing := missing - await present(client, store, sorted(missing), ranks=ranks):
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.1)
    return missing


async def _in_mooncake(client: httpx.AsyncClient, url: str, keys: Sequence[str]) -> set[str]:
    """``/batch_query_keys`` of a master (mooncake 0.3.13); a standby answers with an error."""
    found: set[str] = set()
    for start in range(0, len(keys), QUERY_BATCH):
        batch = keys[start : start + QUERY_BATCH]
        response = await client.get(f"{url}/batch_query_keys", params={"keys": ",".join(batch)})
        response.raise_for_status()
        data = response.json().get("data", {})
        found |= {key for key, entry in data.items() if entry.get("ok")}
    return found


async def _in_hf3fs(
    client: httpx.AsyncClient, url: str, keys: Sequence[str], ranks: int
) -> set[str]:
    """``/RANK/exists`` of the metadata server (sglang 0.5.23 mini_3fs_metadata_server.py)."""
    found = set(keys)
    for rank in range(ranks):
        response = await client.post(f"{url}/{rank}/exists", json={"keys": list(keys)})
        response.raise_for_status()
        answers = response.json()["exists"]
        found &= {key for key, there in zip(keys, answers, strict=True) if there}
    return found
