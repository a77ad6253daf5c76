"""Answers compared with those computed without reuse, as the proof compares them."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pdcache.proof.bench import first_difference, near_tie
from pdcache.sglang.generate import Generation, request_body

Ask = Callable[[dict[str, Any]], Awaitable[Generation]]


async def difference(
    ask: Ask, dtype: str, prompt: Sequence[int], seen: Sequence[int]
) -> str | None:
    """How an answer differs from the one under a cache salt of its own; None where it does not.

    A cluster under load computes a token in other batches, so at a tie it may choose the other.
    """
    body = request_body(prompt, len(seen), cache_salt=secrets.token_hex(8))
    plain = await ask(body)
    assert plain.cached == 0
    if plain.output_ids == tuple(seen):
        return None
    at = first_difference(plain.output_ids, seen)
    body = request_body(prompt, at + 1, cache_salt=secrets.token_hex(8), logprobs=True)
    gap = (await ask(body)).top2_gaps[at]
    told = f"tokens differ from position {at} on (logprob gap {gap:.2g})"
    print(told, list(seen), list(plain.output_ids))
    return None if gap <= near_tie(dtype) else told
