"""Prompts of random tokens, and their answers timed at a cluster's gateway."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from stacks import MODEL, Stack

from pdcache.replay.client import Answer, GenerateClient, GenerateRequest

PAGE = 64


class Prompts:
    """Prompts that no cache has seen, of tokens that a model knows."""

    def __init__(self, model: Path, seed: int) -> None:
        self._random = random.Random(seed)
        self._known = json.loads((model / "config.json").read_text())["vocab_size"]

    def fresh(self, length: int) -> list[int]:
        """A new prompt."""
        return [self._random.randrange(100, self._known) for _ in range(length)]


def ask(stack: Stack, prompts: Sequence[Sequence[int]], tokens: int, cached: int) -> list[Answer]:
    """All prompts at once, each answered with so many tokens.

    Raises:
        RuntimeError: one failed, or had another number of cached tokens.
    """

    async def together() -> list[Answer]:
        async with GenerateClient(stack.url, timeout_s=600) as client:
            return await asyncio.gather(
                *(client.generate(request(prompt, tokens)) for prompt in prompts)
            )

    answers = asyncio.run(together())
    for answer in answers:
        if answer.error is not None or answer.ttft_s is None:
            raise RuntimeError(f"{stack.name}: {answer.error}")
        if answer.cached.total != cached:
            raise RuntimeError(f"{stack.name}: {answer.cached}, not {cached} tokens cached")
    return answers


def request(prompt: Sequence[int], tokens: int) -> GenerateRequest:
    """A request that a gateway takes, which wants the model's name."""
    return GenerateRequest(prompt, tokens, extra={"model": MODEL})


def ttft_s(answer: Answer) -> float:
    """Seconds to the first token."""
    assert answer.ttft_s is not None
    return answer.ttft_s


def tpot_s(answers: Sequence[Answer]) -> float:
    """Seconds a token after the first: the mean of each stream, and of those the median."""
    return statistics.median(statistics.fmean(answer.gaps_s) for answer in answers)


def tpot_together_s(answers: Sequence[Answer]) -> float:
    """Seconds a token while all stream: from the last first token to the first last one.

    Before that and after it a step has fewer streams, and is faster; and the first tokens of the
    first stream reach a client in one piece (docs/performance.md).

    Raises:
        RuntimeError: they never streamed all at once, as far as the client saw.
    """
    stamps = [
        [*accumulate(one.gaps_s, initial=one.sent_at_s + ttft_s(one))] for one in answers
    ]  # fmt: skip
    begin, end = max(one[0] for one in stamps), min(one[-1] for one in stamps)
    counts = [sum(begin < at <= end for at in one) for one in stamps]
    if min(counts) < len(stamps[0]) // 4:
        raise RuntimeError(f"of {len(stamps[0])} tokens each only {min(counts)} came side by side")
    return (end - begin) / statistics.fmean(counts)
