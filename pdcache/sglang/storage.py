"""Attach, detach and change L3 of a running prefill worker: ``/hicache/storage-backend``.

Facts (sglang 0.5.23 ``entrypoints/http_server.py:1101-1218``, run): PUT and DELETE are refused with
400 while the worker is not idle; a PUT on an attached backend answers 200, shows the new options
and does not apply them, so options change by DELETE and PUT only; a GET shows what was asked for,
not what is in force, so the truth is kept by the controller.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import httpx

from pdcache.errors import ClusterError
from pdcache.plan.process import Process

PATH = "/hicache/storage-backend"
POLL_S = 0.25
NOT_IDLE = "not idle"


@dataclass(frozen=True)
class Settings:
    """What a worker is given: backend, its options as JSON text, and the two policies."""

    backend: str
    options: str
    prefetch_policy: str | None
    write_policy: str | None


async def attach(
    client: httpx.AsyncClient, worker: Process, settings: Settings, *, limit_s: float
) -> None:
    """PUT: attach a detached worker, or change the policies of one that is attached.

    Raises:
        ClusterError: it was refused, or the worker was not idle within the limit.
    """
    body = {
        "hicache_storage_backend": settings.backend,
        "hicache_storage_backend_extra_config_json": settings.options,
    }
    if settings.prefetch_policy is not None:
        body["hicache_storage_prefetch_policy"] = settings.prefetch_policy
    if settings.write_policy is not None:
        body["hicache_write_policy"] = settings.write_policy
    await _until_idle(client, "PUT", worker, body, limit_s)


async def detach(client: httpx.AsyncClient, worker: Process, *, limit_s: float) -> None:
    """DELETE: the worker goes on with L1 and L2; one that is detached stays so.

    Raises:
        ClusterError: it was refused, or the worker was not idle within the limit.
    """
    await _until_idle(client, "DELETE", worker, None, limit_s)


async def shown(client: httpx.AsyncClient, worker: Process) -> dict[str, str | None]:
    """GET: what the worker shows. It is what was last asked for, not what is in force.

    Raises:
        ClusterError: it does not answer.
    """
    try:
        response = await client.get(f"{worker.url}{PATH}")
        response.raise_for_status()
        data: dict[str, str | None] = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise ClusterError(f"does not tell its storage: {error}", where=worker.name) from None
    return data


async def _until_idle(
    client: httpx.AsyncClient, method: str, worker: Process, body: object, limit_s: float
) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        left = max(1.0, deadline - time.monotonic())
        try:
            response = await client.request(method, f"{worker.url}{PATH}", json=body, timeout=left)
        except httpx.HTTPError as error:
            raise ClusterError(
                f"{method} {PATH} failed: {str(error) or type(error).__name__}.", where=worker.name
            ) from None
        if response.status_code == 200:
            return
        text = " ".join(response.text.split())
        if NOT_IDLE not in text.lower() or time.monotonic() > deadline:
            raise ClusterError(
                f"{method} {PATH}: HTTP {response.status_code} {text[:300]}", where=worker.name
            )
        await asyncio.sleep(POLL_S)
