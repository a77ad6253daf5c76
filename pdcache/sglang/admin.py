"""SGLang's admin HTTP: flush, server facts, metrics."""

from __future__ import annotations

import asyncio
import time

import httpx

from pdcache.errors import ClusterError
from pdcache.plan.process import Process


async def flush(client: httpx.AsyncClient, worker: Process, *, limit_s: float) -> float:
    """Clear L1 and L2 of a worker; L3 stays. Returns the seconds it took.

    SGLang answers 400 while a request or a backup to L3 runs, so a 200 also proves that all
    backups of this worker are in L3 (sglang 0.5.23 ``managers/scheduler.py``, ``flush_cache``).

    Raises:
        ClusterError: it was not idle within the limit.
    """
    begin = time.monotonic()
    last = ""
    while time.monotonic() - begin < limit_s:
        try:
            response = await client.post(f"{worker.url}/flush_cache")
            last = f"HTTP {response.status_code} {response.text[:120]}".strip()
            if response.status_code == 200:
                return time.monotonic() - begin
        except httpx.HTTPError as error:
            last = type(error).__name__
        await asyncio.sleep(0.1)
    raise ClusterError(
        f"could not flush its cache within {limit_s:.0f} s ({last}).",
        where=worker.name,
        remedy="It does not become idle; look at its queues and at backups to L3 in its log.",
    )


async def abort_all(client: httpx.AsyncClient, worker: Process) -> None:
    """Abort every request of a worker (sglang 0.5.23 ``entrypoints/http_server.py``).

    Raises:
        ClusterError: it does not answer 200.
    """
    try:
        response = await client.post(f"{worker.url}/abort_request", json={"abort_all": True})
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise ClusterError(
            f"did not abort its requests: {str(error) or type(error).__name__}.", where=worker.name
        ) from None


async def metrics(client: httpx.AsyncClient, url: str) -> dict[str, float]:
    """Prometheus samples under their names, summed over labels."""
    response = await client.get(f"{url}/metrics")
    response.raise_for_status()
    return parse_metrics(response.text)


def parse_metrics(text: str) -> dict[str, float]:
    """Sum of every sample by metric name."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name_and_labels, _, value = line.rpartition(" ")
            name = name_and_labels.partition("{")[0]
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums
