"""A multi-turn load through the gateway that runs beside a test and misses nothing.

Every request ends in an answer or an error within its limit; both are recorded. Afterwards each
answer is compared with the one computed without reuse on the undisturbed cluster.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx

from pdcache.errors import ClusterError
from pdcache.plan import Plan
from pdcache.replay.client import GenerateClient, GenerateRequest
from pdcache.sglang.generate import Generation, request_body, through_gateway
from pdcache.topology import Mode
from tests.answers import difference

FIRST, QUESTION, ANSWER, TURNS = 90, 20, 24, 6
SLOW_S = 30.0


@dataclass
class Turn:
    """One request; times are of `time.monotonic`."""

    session: int
    turn: int
    prompt: list[int]
    streamed: bool
    began_s: float
    ceiling: int
    ended_s: float = 0.0
    ttft_s: float | None = None
    cached: int = 0
    storage: int = 0
    answer: tuple[int, ...] = ()
    error: str | None = None

    @property
    def seconds(self) -> float:
        """From sending to the last token, or to the error."""
        return self.ended_s - self.began_s

    def __str__(self) -> str:
        how = "stream" if self.streamed else "plain"
        return (
            f"session {self.session} turn {self.turn} ({how}, {self.seconds:.1f} s): {self.error}"
        )


@dataclass
class Load:
    """Sessions that talk until the with block ends. All but every third one stream.

    Attributes:
        limit_s: of a request; one that needs longer is an error of its own.
        think_s: pause between turns, in which pages reach L3.
    """

    plan: Plan
    sessions: int = 3
    limit_s: float = 60.0
    think_s: float = 0.3
    turns: list[Turn] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Let the requests that run end, and send no more."""
        self._stop.set()
        self._thread.join(self.limit_s + 30)
        assert not self._thread.is_alive(), "a request hangs"

    @property
    def done(self) -> list[Turn]:
        """Requests that have ended."""
        return [turn for turn in self.turns if turn.ended_s]

    def wait_for_turns(self, count: int, limit_s: float = 120.0) -> None:
        """Wait until that many more turns were answered."""
        goal = sum(turn.error is None for turn in self.done) + count
        deadline = time.monotonic() + limit_s
        while sum(turn.error is None for turn in self.done) < goal:
            assert time.monotonic() < deadline, f"no {count} answers within {limit_s} s"
            time.sleep(0.1)

    async def _run(self) -> None:
        async with (
            GenerateClient(self.plan.endpoint, timeout_s=self.limit_s) as streaming,
            httpx.AsyncClient(
                timeout=self.limit_s, trust_env=False, headers=self.headers,
                limits=httpx.Limits(keepalive_expiry=2.0),
            ) as plain,
        ):  # fmt: skip
            await asyncio.gather(
                *(self._session(number, streaming, plain) for number in range(self.sessions))
            )

    async def _session(
        self, number: int, streaming: GenerateClient, plain: httpx.AsyncClient
    ) -> None:
        source = random.Random(secrets.randbits(32))
        page = self.plan.formats["prefill"].page_size
        full = self.plan.mode is Mode.FULL_OFFLOAD
        while not self._stop.is_set():
            prompt, known, turn = _tokens(source, FIRST), 0, 1
            while turn <= TURNS and not self._stop.is_set():
                own = Turn(
                    number, turn, prompt, number % 3 != 0, time.monotonic(),
                    min(known, len(prompt) - 1) // page * page,
                )  # fmt: skip
                self.turns.append(own)
                await self._ask(own, streaming, plain)
                own.ended_s = time.monotonic()
                await asyncio.sleep(self.think_s)
                if own.error is None:
                    stream = [*prompt, *own.answer]
                    known = len(stream) - 1 if full else len(prompt)
                    prompt, turn = [*stream, *_tokens(source, QUESTION)], turn + 1

    async def _ask(self, own: Turn, streaming: GenerateClient, plain: httpx.AsyncClient) -> None:
        model = self.plan.formats["prefill"].served_name
        if own.streamed:
            request = GenerateRequest(
                own.prompt, ANSWER, headers=self.headers, extra={"model": model}
            )
            seen = await streaming.generate(request)
            own.answer, own.ttft_s = seen.output_ids, seen.ttft_s
            own.storage = seen.cached.storage
            own.cached = seen.cached.device + seen.cached.host + seen.cached.storage
            own.error = f"{seen.error.kind}: {seen.error.message}" if seen.error else None
            return
        try:
            body = request_body(own.prompt, ANSWER)
            generation = await through_gateway(plain, self.plan.endpoint, model, body)
        except ClusterError as error:
            own.error = error.message
            return
        own.answer, own.cached = generation.output_ids, generation.cached
        own.storage = generation.storage


def wrong_tokens(
    plan: Plan, turns: Iterable[Turn], *, limit_s: float = 60.0, at_once: int = 3
) -> list[str]:
    """Answers that differ from those computed without reuse, a line each."""
    answered = [turn for turn in turns if turn.error is None]
    return asyncio.run(_wrong(plan, answered, limit_s, at_once))


async def _wrong(plan: Plan, turns: list[Turn], limit_s: float, at_once: int) -> list[str]:
    model, gate = plan.formats["prefill"].served_name, asyncio.Semaphore(at_once)
    wrong: list[str] = []
    async with httpx.AsyncClient(
        timeout=limit_s, trust_env=False, limits=httpx.Limits(keepalive_expiry=2.0)
    ) as client:

        async def ask(body: dict[str, Any]) -> Generation:
            return await through_gateway(client, plan.endpoint, model, body)

        async def compare(turn: Turn) -> None:
            async with gate:
                told = await difference(ask, plan.dtype, turn.prompt, turn.answer)
                if told is not None:
                    wrong.append(f"session {turn.session} turn {turn.turn}: {told}")

        await asyncio.gather(*(compare(turn) for turn in turns))
    return wrong


def _tokens(source: random.Random, count: int) -> list[int]:
    return [source.randrange(10, 500) for _ in range(count)]
