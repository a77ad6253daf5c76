"""The canaries: each sends, makes sure where KV is, sends again, and judges what was reused."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from functools import partial

from pdcache.changes.kinds import has_storage
from pdcache.plan.process import Process
from pdcache.proof.bench import Bench
from pdcache.proof.canary import Canary
from pdcache.proof.causes import probable_causes
from pdcache.sglang.generate import Generation
from pdcache.topology.schema import Mode, Role

PROMPT_PAGES = 2.5
ANSWER_TOKENS = 8


async def hops(bench: Bench) -> AsyncIterator[Canary]:
    """All canaries of the plan's mode, one after the other.

    While a cluster is detached from L3 only the transfer between workers is left to prove.
    """
    if not any(has_storage(worker) for worker in bench.prefills):
        for prefill in bench.prefills:
            yield await one_answer(bench, prefill, bench.decodes[0])
        return
    yield await bench.patient(lambda: through_the_gateway(bench))
    ring = list(bench.prefills)
    for writer, reader in zip(ring, ring[1:] + ring[:1], strict=True):
        if writer is not reader:
            pair = partial(between_prefills, bench, writer, reader, bench.decodes[0])
            yield await bench.patient(pair)
    if bench.plan.mode is Mode.FULL_OFFLOAD:
        for decode in bench.decodes:
            yield await bench.patient(partial(answer_on_hot_prompt, bench, ring[0], decode))
            yield await bench.patient(partial(answer_after_flush, bench, ring[-1], decode))


async def through_the_gateway(bench: Bench) -> Canary:
    """The same prompt twice through the gateway with L1 and L2 flushed between: L3 serves it."""
    begin = time.monotonic()
    prompt = bench.prompt(PROMPT_PAGES)
    await bench.gateway(prompt, ANSWER_TOKENS)
    await bench.flush_all()
    missing = await bench.wait_written(prompt, Role.PREFILL)
    second = await bench.gateway(prompt, ANSWER_TOKENS)
    return await _judge(
        bench, "same prompt after a flush", "gateway -> prefill -> L3 -> prefill",
        prompt, second, bench.reusable(prompt, len(prompt)), missing,
        bench.prefills[0], bench.decodes[0], begin,
    )  # fmt: skip


async def between_prefills(
    bench: Bench, writer: Process, reader: Process, decode: Process
) -> Canary:
    """A prompt through one prefill, then through another: it reads what the first wrote."""
    begin = time.monotonic()
    prompt = bench.prompt(PROMPT_PAGES)
    await bench.pair(writer, decode, prompt, ANSWER_TOKENS)
    missing = await bench.wait_written(prompt, Role.PREFILL)
    second = await bench.pair(reader, decode, prompt, ANSWER_TOKENS)
    return await _judge(
        bench, "same prompt on another prefill", f"{writer.name} -> L3 -> {reader.name}",
        prompt, second, bench.reusable(prompt, len(prompt)), missing, reader, decode, begin,
    )  # fmt: skip


async def own_pages(bench: Bench, prefill: Process, decode: Process) -> Canary:
    """A prompt twice on one prefill with a flush of it between: it reads what it wrote itself.

    For a worker that has no peer to share with, and no traffic that a flush would hurt.
    """
    begin = time.monotonic()
    prompt = bench.prompt(PROMPT_PAGES)
    await bench.pair(prefill, decode, prompt, ANSWER_TOKENS)
    await bench.flush(prefill)
    missing = await bench.wait_written(prompt, Role.PREFILL)
    second = await bench.pair(prefill, decode, prompt, ANSWER_TOKENS)
    return await _judge(
        bench, "same prompt after a flush", f"{prefill.name} -> L3 -> {prefill.name}",
        prompt, second, bench.reusable(prompt, len(prompt)), missing, prefill, decode, begin,
    )  # fmt: skip


async def one_answer(bench: Bench, prefill: Process, decode: Process) -> Canary:
    """A prompt on two workers, twice: the transfer between them works, and L1 serves the second.

    For a worker that has no peer to share with; nothing is asked of L3.
    """
    begin = time.monotonic()
    prompt = bench.prompt(PROMPT_PAGES)
    await bench.pair(prefill, decode, prompt, ANSWER_TOKENS)
    second = await bench.pair(prefill, decode, prompt, ANSWER_TOKENS)
    return await _judge(
        bench, "same prompt on the same pair", f"{prefill.name} -> L1 -> {prefill.name}",
        prompt, second, 0, 0, prefill, decode, begin,
    )  # fmt: skip


async def answer_on_hot_prompt(bench: Bench, prefill: Process, decode: Process) -> Canary:
    """A second turn on the prefill that still holds the prompt: only the answer is left to L3.

    The answer is shorter than SGLang's default prefetch threshold, as most answers are.
    """
    begin = time.monotonic()
    turn, known, prompt_len, missing = await _first_turn(bench, prefill, decode)
    second = await bench.pair(prefill, decode, turn, ANSWER_TOKENS)
    expected = bench.reusable(turn, known) - prompt_len // bench.page * bench.page
    return await _judge(
        bench, "short answer on a hot prompt", f"{decode.name} -> L3 -> {prefill.name}",
        turn, second, expected, missing, prefill, decode, begin,
    )  # fmt: skip


async def answer_after_flush(bench: Bench, prefill: Process, decode: Process) -> Canary:
    """A second turn after a flush: prompt and answer come from L3."""
    begin = time.monotonic()
    turn, known, _, missing = await _first_turn(bench, prefill, decode)
    await bench.flush_all()
    second = await bench.pair(prefill, decode, turn, ANSWER_TOKENS)
    return await _judge(
        bench, "prompt and answer after a flush", f"{decode.name} -> L3 -> {prefill.name}",
        turn, second, bench.reusable(turn, known), missing, prefill, decode, begin,
    )  # fmt: skip


async def _first_turn(
    bench: Bench, prefill: Process, decode: Process
) -> tuple[list[int], int, int, int | None]:
    """A turn whose answer fills a page, and the prompt of the turn after it.

    Returns the second prompt, the tokens whose KV exists after the first turn (the last sampled
    token has none), the length of the first prompt, and the pages missing in L3 (None: unknown).
    """
    page = bench.page
    prompt = bench.prompt(1.5)
    answer = page - len(prompt) % page + ANSWER_TOKENS
    first = await bench.pair(prefill, decode, prompt, answer)
    stream = [*prompt, *first.output_ids]
    known = len(stream) - 1
    missing = await bench.wait_written(stream[:known], Role.DECODE)
    return [*stream, *bench.prompt(0.25)], known, len(prompt), missing


async def _judge(
    bench: Bench, name: str, hop: str, prompt: Sequence[int], seen: Generation, expected: int,
    missing: int | None, prefill: Process, decode: Process, begin: float,
) -> Canary:  # fmt: skip
    equal, comparison = await bench.same_without_reuse(prefill, decode, prompt, seen)
    proved = equal and seen.storage >= expected and not missing
    written = "the store cannot be asked for pages"
    if missing is not None:
        written = f"{missing} pages never reached L3" if missing else "all pages in L3"
    return Canary(
        name=name, hop=hop, proved=proved,
        cached_tokens={"device": seen.device, "host": seen.host, "storage": seen.storage},
        expected_storage_tokens=expected, tokens_equal=equal,
        evidence=f"{written}; {seen.storage} of {expected} expected tokens read from L3; "
        f"{comparison}",
        causes=() if proved else probable_causes(missing or 0, seen.storage, expected, equal, hop),
        seconds=round(time.monotonic() - begin, 2),
    )  # fmt: skip
