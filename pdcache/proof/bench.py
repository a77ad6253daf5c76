"""The proof's workbench: prompts nobody has seen, requests on chosen workers, flushes, waits."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence

import httpx

from pdcache.errors import ProofError
from pdcache.plan.process import Plan, Process
from pdcache.proof.canary import Canary
from pdcache.sglang import admin
from pdcache.sglang.generate import Generation, Pair, on_pair, request_body, through_gateway
from pdcache.sglang.page_keys import object_keys, page_hashes
from pdcache.store.presence import wait_present
from pdcache.topology.schema import Role

NEAR_TIE, NEAR_TIE_FLOAT32 = 0.05, 0.001
"""Logprob gap of the two best tokens up to which rounding may order them either way.

In float32 the built-in models' gaps move by 1e-5 to 1e-4 with the way through torch 2.13.0.
"""

PAUSES_S = (0.5, 2.0, 6.0)
"""How long pages get to reach a store that cannot be asked, in one attempt after the other."""

LOW_ID, HIGH_ID = 10, 500
"""Token ids that every vocabulary has and that are rarely special."""


def near_tie(dtype: str) -> float:
    """The largest logprob gap of the two best tokens that counts as a tie in that dtype."""
    return NEAR_TIE_FLOAT32 if dtype == "float32" else NEAR_TIE


def first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """The first position at which two answers have different tokens; 0 where one only ends."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), 0)


def step_limit_s(plan: Plan) -> float:
    """Limit of one request or flush: it ends, and names its worker, before the proof's own."""
    return plan.timeouts["proof_s"] / 2


class Bench:
    """What all canaries share: the plan, an HTTP client, limits."""

    def __init__(self, plan: Plan, client: httpx.AsyncClient) -> None:
        self.plan = plan
        self.client = client
        self.prefills = plan.role(Role.PREFILL)
        self.decodes = plan.role(Role.DECODE)
        self.page = plan.formats["prefill"].page_size
        self.limit_s = step_limit_s(plan)
        self.can_ask = plan.store.presence != "unknown" and all(
            kv_format.keys_known for kv_format in plan.formats.values()
        )
        self.pause_s = 0.0

    async def patient(self, canary: Callable[[], Awaitable[Canary]]) -> Canary:
        """A canary; where the store cannot be asked it is repeated with longer pauses."""
        for pause_s in (0.0,) if self.can_ask else PAUSES_S:
            self.pause_s = pause_s
            result = await canary()
            if result.proved:
                break
        return result

    def prompt(self, pages: float) -> list[int]:
        """A prompt of that many pages that no cache can hold."""
        source = secrets.SystemRandom()
        return [source.randrange(LOW_ID, HIGH_ID) for _ in range(int(pages * self.page))]

    def reusable(self, prompt: Sequence[int], known: int) -> int:
        """Page-aligned tokens of ``prompt`` that can be served when ``known`` of them were seen.

        SGLang always computes at least the last token of a prompt.
        """
        return min(known, len(prompt) - 1) // self.page * self.page

    async def gateway(self, prompt: Sequence[int], answer: int) -> Generation:
        """One request through the gateway."""
        model = self.plan.formats["prefill"].served_name
        body = request_body(prompt, answer)
        return await through_gateway(self.client, self.plan.endpoint, model, body)

    async def pair(
        self,
        prefill: Process,
        decode: Process,
        prompt: Sequence[int],
        answer: int,
        *,
        salt: str | None = None,
        logprobs: bool = False,
    ) -> Generation:
        """One request on chosen workers."""
        body = request_body(prompt, answer, cache_salt=salt, logprobs=logprobs)
        return await on_pair(self.client, Pair(prefill, decode), body)

    async def flush_all(self) -> None:
        """Clear L1 and L2 of every prefill; afterwards their backups are in L3."""
        for worker in self.prefills:
            await self.flush(worker)

    async def flush(self, worker: Process) -> None:
        """Clear L1 and L2 of one prefill."""
        await admin.flush(self.client, worker, limit_s=self.limit_s)

    async def wait_written(
        self, tokens: Sequence[int], role: Role, *, limit_s: float = 10.0
    ) -> int | None:
        """Wait for the whole pages of ``tokens`` in L3.

        Returns:
            The number of missing pages; None when the store cannot be asked.
        """
        if not self.can_ask:
            await asyncio.sleep(self.pause_s)
            return None
        kv_format = self.plan.formats[role.value]
        keys = {
            key: page
            for page, digest in enumerate(page_hashes(tokens, self.page))
            for key in object_keys(digest, kv_format)
        }
        missing = await wait_present(
            self.client, self.plan.store, list(keys), limit_s=limit_s, ranks=kv_format.key_ranks
        )
        return len({keys[key] for key in missing})

    async def same_without_reuse(
        self, prefill: Process, decode: Process, prompt: Sequence[int], seen: Generation
    ) -> tuple[bool, str]:
        """Compare an answer with the one computed with nothing to reuse.

        A cache salt that nobody has used gives the request a namespace of its own, so every tier
        misses. A first difference at a near-tie (`near_tie`) counts as equal and is reported.
        """
        salt = secrets.token_hex(8)
        plain = await self.pair(prefill, decode, prompt, len(seen.output_ids), salt=salt)
        if plain.cached:
            raise ProofError(
                f"a request under a new cache salt still hit {plain.cached} tokens, so answers "
                "without reuse cannot be had.",
                where=prefill.name,
            )
        if plain.output_ids == seen.output_ids:
            return True, "tokens equal"
        at = first_difference(plain.output_ids, seen.output_ids)
        gaps = await self.pair(
            prefill, decode, prompt, at + 1, salt=secrets.token_hex(8), logprobs=True
        )
        gap = gaps.top2_gaps[at] if len(gaps.top2_gaps) > at else float("inf")
        if gap <= near_tie(self.plan.dtype):
            return True, f"tokens equal up to a near-tie at {at} (logprob gap {gap:.2g})"
        return False, f"tokens differ from position {at} on (logprob gap {gap:.2g})"
