"""Whether what a prefill and a decode write reaches L3, asked of the store itself."""

from __future__ import annotations

from pdcache.plan.process import Process
from pdcache.proof.bench import Bench
from pdcache.topology.schema import Mode, Role

PAGES = 1.5
LIMIT_S = 3.0


async def unwritten(bench: Bench, prefill: Process, decode: Process) -> int:
    """Pages of a request's prompt, and in full_offload of its answer, that are not in L3 in time.

    0 where the store cannot be asked. Flushes nobody.

    Raises:
        ClusterError: a worker or the store does not answer.
    """
    page = bench.page
    prompt = bench.prompt(PAGES)
    full = bench.plan.mode is Mode.FULL_OFFLOAD
    answer = page - len(prompt) % page + 1 if full else 1
    first = await bench.pair(prefill, decode, prompt, answer)
    missing = await bench.wait_written(prompt, Role.PREFILL, limit_s=LIMIT_S) or 0
    if full:
        known = [*prompt, *first.output_ids][: len(prompt) + answer - 1]
        missing += await bench.wait_written(known, Role.DECODE, limit_s=LIMIT_S) or 0
    return missing
