"""The short proof that a worker passes before it gets traffic (again)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx

from pdcache.changes.kinds import OPTIONS, has_storage
from pdcache.errors import ClusterError
from pdcache.plan.portable import flags
from pdcache.plan.process import Plan, Process
from pdcache.proof.bench import Bench
from pdcache.proof.canary import Canary
from pdcache.proof.hops import answer_on_hot_prompt, between_prefills, one_answer, own_pages
from pdcache.store.health import healthy
from pdcache.topology.schema import Mode, Role

if TYPE_CHECKING:
    from pdcache.cluster.live import Live

READER_OPTIONS = {
    "prefetch_threshold",
    "prefetch_timeout_base",
    "prefetch_timeout_per_ki_token",
    "hicache_storage_pass_prefix_keys",
}
"""Options that say how a worker reads, not which pages it shares."""


async def prove_again(
    live: Live, worker: Process, client: httpx.AsyncClient, plan: Plan | None = None
) -> None:
    """Prove that a worker, which the gateway must not have, reads and writes what it shares.

    Uses other workers that serve at this moment and flushes none of them. Without a worker of the
    other role there is nothing to prove with, and it is admitted on its health alone.

    Args:
        plan: what the cluster is on its way to; unset, its plan as it is.

    Raises:
        ClusterError: the worker does not answer, or does not reuse.
    """
    prefills = [other for other in live.serving(Role.PREFILL) if other.name != worker.name]
    decodes = [other for other in live.serving(Role.DECODE) if other.name != worker.name]
    bench = Bench(plan or live.plan, client)
    canaries = [await _reuse(bench, worker, prefills, decodes)]
    # After a failed transfer a prefill refuses one decode and not the others (sglang 0.5.23
    # disaggregation/mooncake/conn.py), so the worker has to work with every one.
    for other in decodes[1:] if worker.role is Role.PREFILL else ():
        canaries.append(await one_answer(bench, worker, other))
    for other in prefills[1:] if worker.role is Role.DECODE else ():
        canaries.append(await one_answer(bench, other, worker))
    for canary in canaries:
        if canary is not None and not canary.proved:
            raise ClusterError(
                f"is healthy but did not prove reuse: {canary.evidence}.",
                where=worker.name,
                remedy="It is kept out of the gateway.",
            )


async def _reuse(
    bench: Bench, worker: Process, prefills: list[Process], decodes: list[Process]
) -> Canary | None:
    """The canary that shows that a worker shares its pages, as far as there is somebody to."""
    plan = bench.plan
    # Without the store serving goes on with misses: that is no reason to keep a worker out.
    stored = has_storage(worker) and await healthy(bench.client, plan.store) is None
    peers = [other for other in prefills if shared_pages(other) == shared_pages(worker)]
    if worker.role is Role.PREFILL and decodes:
        if not stored:
            return await one_answer(bench, worker, decodes[0])
        if peers:
            return await between_prefills(bench, peers[0], worker, decodes[0])
        return await own_pages(bench, worker, decodes[0])
    if worker.role is Role.DECODE and prefills:
        if stored and peers and plan.mode is Mode.FULL_OFFLOAD:
            return await answer_on_hot_prompt(bench, peers[0], worker)
        return await one_answer(bench, prefills[0], worker)
    return None


def shared_pages(worker: Process) -> object:
    """Equal for workers that find each other's pages: the options of their backend."""
    text = flags(worker).get(OPTIONS)
    options = json.loads(text) if text else {}
    return {key: value for key, value in options.items() if key not in READER_OPTIONS}
