"""The audit: prompts of live dialogues are asked again, with their KV reused and without.

Prompts are users' text. They go to the workers that have them already, and nowhere else: results
and errors hold counts, positions and logprob gaps, never a token.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from pdcache.errors import ClusterError, ProofError
from pdcache.plan.portable import flags
from pdcache.plan.process import Plan, Process
from pdcache.proof.bench import HIGH_ID, LOW_ID, Bench, step_limit_s
from pdcache.sglang.keys import ClusterAuth, Keys
from pdcache.sglang.kv_events import Blocks, Publisher, listen
from pdcache.topology.schema import Role

QUESTION_TOKENS = 8
ANSWER_TOKENS = 16

YAML = "prefill:\n  kv_events:\n    port: 5557\n    replay_port: 5657"


@dataclass(frozen=True)
class Sample:
    """One prompt of a dialogue, asked again on one pair of workers.

    Attributes:
        prompt_tokens: whole pages of the dialogue, and a random question.
        cached_tokens: prompt tokens that were reused, by tier.
        tokens_equal: the answer is the one computed without reuse; None: nothing was reused.
        evidence: what was compared, in a line.
    """

    prefill: str
    decode: str
    prompt_tokens: int
    cached_tokens: dict[str, int]
    tokens_equal: bool | None
    evidence: str
    seconds: float = 0.0

    def __str__(self) -> str:
        tiers = "/".join(str(count) for count in self.cached_tokens.values())
        return (
            f"{self.prefill} -> {self.decode}: {self.prompt_tokens} prompt tokens, {tiers} from "
            f"device/host/L3: {self.evidence}"
        )


@dataclass(frozen=True)
class Audit:
    """All samples.

    Attributes:
        unanswered: why samples have no result, a line each.
    """

    samples: tuple[Sample, ...]
    unanswered: tuple[str, ...] = ()

    @property
    def audited(self) -> bool:
        """KV was reused, and every answer with it was right."""
        return not self.wrong() and any(sample.tokens_equal for sample in self.samples)

    def wrong(self) -> list[str]:
        """Samples whose answer differs, a line each."""
        return [f"audit: {sample}" for sample in self.samples if sample.tokens_equal is False]

    def as_json(self) -> dict[str, Any]:
        """The audit under the key names of ``verify --audit --json``."""
        return {
            "schema": 1,
            "audited": self.audited,
            "samples": [asdict(sample) for sample in self.samples],
            "unanswered": list(self.unanswered),
        }


def dialogues(
    plan: Plan,
    seconds: float,
    *,
    on_progress: Callable[[float, int], None] = lambda elapsed_s, pages: None,
) -> list[tuple[int, ...]]:
    """Prompts of the dialogues that prefill workers tell of within that time, whole pages each.

    Args:
        on_progress: gets the seconds and the pages so far.

    Raises:
        ProofError: nobody publishes, can be reached, or tells of a dialogue from its first page.
    """
    told = publishers(plan.role(Role.PREFILL))
    if not told:
        raise ProofError(
            "no prefill worker publishes KV events, so the audit cannot see any dialogue.",
            where="prefill.kv_events",
            remedy=f"Add this to the topology and `pdcache apply` it:\n{YAML}",
        )
    reached = [publisher for publisher in told if publisher.answers()]
    names = ", ".join(sorted({publisher.worker for publisher in told}))
    if not reached:
        raise ProofError(
            "nobody accepts connections on the ports of KV events.",
            where=names,
            remedy="See `pdcache status`; from another host, let these ports through the firewall.",
        )
    blocks = Blocks(plan.formats["prefill"].page_size)
    listen(reached, blocks, seconds, on_progress=lambda elapsed: on_progress(elapsed, len(blocks)))
    if chains := blocks.chains():
        return chains
    longer = f"Audit while there is traffic, or listen longer: --seconds {seconds * 3:.0f}."
    replay = f"{longer} With prefill.kv_events.replay_port, earlier turns are heard as well."
    if len(blocks):
        raise ProofError(
            f"{len(blocks)} pages were stored within {seconds:g} s, but of no dialogue from its "
            "first page on.",
            where=names,
            remedy=replay,
        )
    if blocks.unread:
        raise ProofError(
            f"{blocks.unread} KV events came in {seconds:g} s, in a form that pdcache cannot read.",
            where=names,
            remedy="Compare the SGLang version with that of `pdcache doctor`.",
        )
    raise ProofError(
        f"no page was stored within {seconds:g} s: there was no traffic without a namespace.",
        where=names,
        remedy=replay,
    )


def publishers(workers: Iterable[Process]) -> list[Publisher]:
    """Who publishes: each data parallel rank has ports of its own, counted up from the first."""
    found = []
    for worker in workers:
        if "kv_events" not in worker.ports:
            continue
        told, replay = flags(worker), worker.ports.get("kv_replay")
        for rank in range(max(int(told.get(flag, 1)) for flag in ("--dp-size", "--attn-dp-size"))):
            past = None if replay is None else replay + rank
            port = worker.ports["kv_events"] + rank
            found.append(Publisher(worker.name, worker.address, port, past))
    return found


def pick(
    chains: Sequence[tuple[int, ...]], count: int, source: random.Random
) -> list[tuple[int, ...]]:
    """At most that many of them; every page has the same chance, so long dialogues come first."""
    weighted = sorted(chains, key=lambda chain: source.random() ** (1 / len(chain)))
    return weighted[-count:]


def audit(
    plan: Plan,
    keys: Keys,
    healthy: Collection[str],
    prompts: Sequence[tuple[int, ...]],
    *,
    on_sample: Callable[[Sample | str], None] = lambda sample: None,
) -> Audit:
    """Ask every prompt again, on a random pair of healthy workers: with reuse, and without.

    Flushes nobody. Each prompt is computed once without reuse, and its pages under a cache salt
    that nobody asks for again go to L2 and L3.

    Args:
        healthy: names of the workers that may be asked.
        on_sample: gets each sample, or why there is none.

    Raises:
        ProofError: no pair is healthy, or no sample was answered.
    """
    return asyncio.run(_audit(plan, keys, healthy, prompts, on_sample))


async def _audit(
    plan: Plan, keys: Keys, healthy: Collection[str], prompts: Sequence[tuple[int, ...]],
    on_sample: Callable[[Sample | str], None],
) -> Audit:  # fmt: skip
    source = secrets.SystemRandom()
    pools = [
        [own for own in plan.role(r) if own.name in healthy] for r in (Role.PREFILL, Role.DECODE)
    ]
    if not all(pools):
        raise ProofError(
            "a healthy prefill and a healthy decode are needed, and there is none.",
            remedy="`pdcache status` tells why; the audit can be run once they are back.",
        )
    samples: list[Sample] = []
    unanswered: list[str] = []
    auth = ClusterAuth(lambda: plan, keys)
    async with httpx.AsyncClient(timeout=step_limit_s(plan), trust_env=False, auth=auth) as client:
        bench = Bench(plan, client)
        for prompt in prompts:
            prefill, decode = (source.choice(pool) for pool in pools)
            try:
                samples.append(await _sample(bench, prefill, decode, prompt, source))
                on_sample(samples[-1])
            except (ClusterError, ProofError) as error:
                # What follows the colon is the worker's own text, which may quote the request.
                unanswered.append(f"{error.where}: {error.message.partition(': ')[0]}")
                on_sample(unanswered[-1])
    if not samples:
        raise ProofError(
            f"none of {len(unanswered)} samples was answered: {unanswered[0]}.",
            remedy="Look at that worker's log: pdcache logs NAME WORKER",
        )
    return Audit(tuple(samples), tuple(unanswered))


async def _sample(
    bench: Bench, prefill: Process, decode: Process, chain: Sequence[int], source: random.Random
) -> Sample:
    begin = time.monotonic()
    question = [source.randrange(LOW_ID, HIGH_ID) for _ in range(QUESTION_TOKENS)]
    prompt = [*_shortened(chain, bench.page), *question]
    seen = await bench.pair(prefill, decode, prompt, ANSWER_TOKENS)
    equal, evidence = None, "nothing was reused, so nothing was compared"
    if seen.cached:
        equal, evidence = await bench.same_without_reuse(prefill, decode, prompt, seen)
    return Sample(
        prefill=prefill.name, decode=decode.name, prompt_tokens=len(prompt),
        cached_tokens={"device": seen.device, "host": seen.host, "storage": seen.storage},
        tokens_equal=equal, evidence=evidence, seconds=round(time.monotonic() - begin, 2),
    )  # fmt: skip


def _shortened(chain: Sequence[int], page: int) -> Sequence[int]:
    """Without the last pages, if question and answer would make it longer than the dialogue was.

    A dialogue may already fill the model's context.
    """
    spare = -(-(QUESTION_TOKENS + ANSWER_TOKENS) // page) * page
    return chain[: max(page, len(chain) - spare)]
