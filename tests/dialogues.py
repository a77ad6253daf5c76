"""Multi-turn dialogues on chosen workers, each turn compared with the same turn without reuse."""

from __future__ import annotations

import asyncio
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import httpx

from pdcache.plan import Plan, Process
from pdcache.sglang import admin
from pdcache.sglang.generate import Pair, on_pair, request_body
from pdcache.sglang.keys import ClusterAuth, Keys
from pdcache.sglang.page_keys import object_keys, page_hashes
from pdcache.store.presence import wait_present
from pdcache.topology import Mode, Role
from tests.answers import difference
from tests.cluster_tools import Shell


@dataclass(frozen=True)
class Turn:
    """One turn: what was cached by tier, what could have been, what its answer lacks."""

    number: int
    prompt_tokens: int
    device: int
    host: int
    storage: int
    ceiling: int
    answer: tuple[int, ...]
    difference: str | None

    @property
    def hit_over_ceiling(self) -> float:
        """Cached tokens over the page-aligned tokens an unlimited cache could have served."""
        return (self.device + self.host + self.storage) / self.ceiling


@dataclass(frozen=True)
class Running:
    """A running cluster at one moment: its plan, and its keys."""

    plan: Plan
    keys: Keys

    def client(self, limit_s: float) -> httpx.AsyncClient:
        """An HTTP client that may ask its processes everything."""
        auth = ClusterAuth(lambda: self.plan, self.keys)
        return httpx.AsyncClient(timeout=limit_s, trust_env=False, auth=auth)


_PRINT_RUNNING = """
import pickle, sys
from pdcache.cluster.client import ClusterClient
from pdcache.cluster.record import the_record
desired = ClusterClient(the_record(sys.argv[1])).desired()
sys.stdout.buffer.write(pickle.dumps((desired.plan, desired.keys)))
"""


def running_cluster(shell: Shell, name: str) -> Running:
    """What a cluster runs now; asked in a process of its own, as Ray joins one cluster."""
    command = [sys.executable, "-c", _PRINT_RUNNING, name]
    done = subprocess.run(command, env=shell.env, stdout=subprocess.PIPE, timeout=60, check=True)
    plan, keys = pickle.loads(done.stdout)
    return Running(plan, keys)


def dialogue(
    running: Running,
    *,
    answer: int,
    flushed: bool,
    prefill_of: Callable[[int], Process],
    turns: int = 4,
    first: int = 300,
    question: int = 30,
    seed: int = 0,
    after_turn: Callable[[int], None] = lambda number: None,
) -> list[Turn]:
    """Hold a dialogue of random tokens, turn by turn, on the prefill that ``prefill_of`` names.

    Between turns the pages that the mode promises are waited for in the store, as a user's think
    time does, and prefill workers are flushed when asked.
    """
    return asyncio.run(
        _dialogue(running, answer, flushed, prefill_of, turns, first, question, seed, after_turn)
    )


async def _dialogue(
    running: Running, answer: int, flushed: bool, prefill_of: Callable[[int], Process], turns: int,
    first: int, question: int, seed: int, after_turn: Callable[[int], None],
) -> list[Turn]:  # fmt: skip
    source = random.Random(seed)
    plan = running.plan
    page = plan.formats["prefill"].page_size
    decode = plan.role(Role.DECODE)[0]
    full = plan.mode is Mode.FULL_OFFLOAD
    done: list[Turn] = []
    known = 0
    prompt = _tokens(source, first)
    async with running.client(120) as client:
        for number in range(1, turns + 1):
            ask = partial(on_pair, client, Pair(prefill_of(number), decode))
            seen = await ask(request_body(prompt, answer))
            told = await difference(ask, plan.dtype, prompt, seen.output_ids)
            done.append(
                Turn(
                    number, len(prompt), seen.device, seen.host, seen.storage,
                    min(known, len(prompt) - 1) // page * page, seen.output_ids, told,
                )
            )  # fmt: skip
            stream = [*prompt, *seen.output_ids]
            known = len(stream) - 1 if full else len(prompt)
            await _written(client, plan, stream[:known], full)
            after_turn(number)
            if flushed:
                for worker in plan.role(Role.PREFILL):
                    await admin.flush(client, worker, limit_s=20)
            prompt = [*stream, *_tokens(source, question)]
    return done


async def _written(client: httpx.AsyncClient, plan: Plan, tokens: list[int], full: bool) -> None:
    shape = plan.formats["decode" if full else "prefill"]
    keys = [
        key for digest in page_hashes(tokens, shape.page_size)
        for key in object_keys(digest, shape)
    ]  # fmt: skip
    missing = await wait_present(client, plan.store, keys, limit_s=20, ranks=shape.key_ranks)
    assert not missing, f"{len(missing)} of {len(keys)} objects never reached the store"


def _tokens(source: random.Random, count: int) -> list[int]:
    return [source.randrange(10, 500) for _ in range(count)]


def assert_full_reuse(turns: list[Turn]) -> None:
    """Later turns reach their ceiling, and every answer equals the one without reuse."""
    for turn in turns:
        assert turn.difference is None, f"turn {turn.number}: {turn.difference}"
    for turn in turns[1:]:
        assert turn.hit_over_ceiling >= 0.99, turn
