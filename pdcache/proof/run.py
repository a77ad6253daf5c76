"""Run the proof on a live cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx

from pdcache.errors import ClusterError, ProofError
from pdcache.plan.process import Plan
from pdcache.proof.bench import Bench, step_limit_s
from pdcache.proof.canary import Canary, Proof
from pdcache.proof.hops import hops
from pdcache.sglang.keys import ClusterAuth, Keys
from pdcache.topology.schema import WORKER_ROLES


def prove(
    plan: Plan,
    keys: Keys | None = None,
    *,
    on_canary: Callable[[Canary], None] = lambda canary: None,
) -> Proof:
    """Send canaries through every hop of the plan's mode and judge what was reused.

    Flushes L1 and L2 of prefill workers; L3 keeps a few pages under names nobody asks for again.

    Args:
        keys: of the cluster; None for servers that ask for none.

    Raises:
        ProofError: a hop did not answer at all within ``timeouts.proof_s``; it names the hop.
    """
    return asyncio.run(_prove(plan, keys, on_canary))


async def _prove(plan: Plan, keys: Keys | None, on_canary: Callable[[Canary], None]) -> Proof:
    for role in WORKER_ROLES:
        if not plan.role(role):
            raise ProofError(
                f"no {role} worker is in service, so nothing can be proved.",
                remedy=f"Bring one back (`pdcache restart {role}-0 {plan.name}`).",
            )
    auth = ClusterAuth(lambda: plan, keys) if keys is not None else None
    limit_s = plan.timeouts["proof_s"]
    canaries: list[Canary] = []
    begin = time.monotonic()
    try:
        async with asyncio.timeout(limit_s):
            async with httpx.AsyncClient(
                timeout=step_limit_s(plan), trust_env=False, auth=auth
            ) as client:
                async for canary in hops(Bench(plan, client)):
                    canaries.append(canary)
                    on_canary(canary)
    except TimeoutError:
        raise ProofError(
            f"the proof was not finished after {time.monotonic() - begin:.0f} s; "
            f"{len(canaries)} canaries had answered.",
            remedy="Look at the workers' logs (`pdcache logs`), or raise timeouts.proof_s.",
        ) from None
    except ClusterError as error:
        raise ProofError(
            f"canary {len(canaries) + 1} got no answer: {error.message}",
            where=error.where,
            remedy=error.remedy or "Look at that worker's log: pdcache logs NAME WORKER",
        ) from None
    return Proof(tuple(canaries))
