"""The gateway's view of the workers: what it is told, and what it has taken."""

from __future__ import annotations

from collections.abc import Container, Mapping

import httpx

from pdcache.cluster.states import ProcessState, ProcessStatus
from pdcache.gateway.smg import manifest
from pdcache.plan.process import Plan, Process
from pdcache.topology.schema import Role


def manifest_text(
    plan: Plan, statuses: Mapping[str, ProcessStatus], held: Container[str] = ()
) -> str:
    """The manifest with every worker that is healthy now and not held.

    Each incarnation has an id of its own.
    """
    return manifest(
        (
            f"{process.name}-{statuses[process.name].incarnation}",
            process.role,
            process.url or "",
            process.ports.get("bootstrap"),
        )
        for process in (*plan.role(Role.PREFILL), *plan.role(Role.DECODE))
        if statuses[process.name].state is ProcessState.HEALTHY and process.name not in held
    )


async def listed(gateway: Process, client: httpx.AsyncClient) -> dict[str, bool] | None:
    """URLs of the workers that the gateway lists, and whether it holds them for healthy.

    None when it does not answer: nothing is known of them then.
    """
    try:
        response = await client.get(f"{gateway.url}/workers")
        response.raise_for_status()
        workers = response.json()["workers"]
        return {str(worker["url"]): bool(worker.get("is_healthy", True)) for worker in workers}
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
