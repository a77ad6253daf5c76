"""The short proof that a recreated worker passes before it gets traffic again."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from pdcache.errors import ClusterError
from pdcache.plan.process import Plan, Process
from pdcache.proof.bench import Bench
from pdcache.proof.hops import answer_on_hot_prompt, between_prefills, one_answer
from pdcache.topology.schema import Mode, Role


async def prove_again(
    plan: Plan, worker: Process, healthy: Callable[[Process], bool], client: httpx.AsyncClient
) -> None:
    """Prove that a worker reads, or as decode writes, what its peers share with it.

    Uses other workers that are healthy at this moment and flushes nobody. Without a peer of the
    other role there is nothing to prove with, and the worker is admitted on its health alone.

    Raises:
        ClusterError: the worker does not answer, or does not reuse.
    """
    prefills = [other for other in plan.role(Role.PREFILL) if healthy(other)]
    decodes = [other for other in plan.role(Role.DECODE) if healthy(other)]
    bench = Bench(plan, client)
    if worker.role is Role.PREFILL and decodes:
        if prefills:
            canary = await between_prefills(bench, prefills[0], worker, decodes[0])
        else:
            canary = await one_answer(bench, worker, decodes[0])
    elif worker.role is Role.DECODE and prefills:
        if plan.mode is Mode.FULL_OFFLOAD:
            canary = await answer_on_hot_prompt(bench, prefills[0], worker)
        else:
            canary = await one_answer(bench, prefills[0], worker)
    else:
        return
    if not canary.proved:
        raise ClusterError(
            f"is healthy but did not prove reuse: {canary.evidence}.",
            where=worker.name,
            remedy="It is kept out of the gateway and started again.",
        )
