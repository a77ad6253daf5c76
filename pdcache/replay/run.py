"""The replay: sessions in a closed loop against one target."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pdcache.replay.ceiling import CeilingTracker
from pdcache.replay.client import GenerateClient, GenerateRequest
from pdcache.replay.dialogue import ChatTokenizer
from pdcache.replay.records import CachedTokens, ReplayResult, RequestError, RequestRecord
from pdcache.replay.sessions import Session
from pdcache.replay.spec import (
    BeforeTurn,
    OnEvent,
    ReplayEvent,
    ReplaySpec,
    ReplayStarted,
    TurnDone,
    TurnSent,
    check_spec,
)


async def run_replay(
    spec: ReplaySpec,
    target: str,
    *,
    on_event: OnEvent | None = None,
    before_turn: BeforeTurn | None = None,
) -> ReplayResult:
    """Replay `spec` against `target` (`http://host:port`).

    A session sends its next turn `think_s` after the answer, on top of all before it. A turn
    that fails is recorded and ends its session; the others go on. `before_turn(session, turn)`
    is awaited before each sending, turns counted from 1; what it raises is recorded as that
    turn's error. Every prompt is tokenised before the start, so no request waits for it.

    Raises:
        ReplayError: the spec or the target cannot be used; nothing was sent.
    """
    check_spec(spec)
    prompts = {session.session: _Prompts.of(session, spec.tokenizer) for session in spec.sessions}
    tracker = CeilingTracker(spec.page_size, spec.mode)
    tell = on_event or _ignore
    planned = sum(len(session.turns) for session in spec.sessions)
    async with GenerateClient(target, timeout_s=spec.timeout_s) as client:
        await client.check_reachable()
        tell(ReplayStarted(planned))
        replay = _Replay(spec, client, tracker, prompts, tell, before_turn)
        pending = iter(sorted(spec.sessions, key=lambda session: session.start_s))
        async with asyncio.TaskGroup() as slots:
            for _ in range(min(spec.concurrency, len(spec.sessions))):
                slots.create_task(replay.run_sessions(pending))
        wall_s = replay.elapsed_s()
    return ReplayResult(
        target=client.target,
        mode=spec.mode,
        page_size=spec.page_size,
        requests_planned=planned,
        wall_s=wall_s,
        records=tuple(replay.records),
    )


@dataclass(frozen=True)
class _Prompts:
    first: list[int]
    between: list[list[int]]

    @classmethod
    def of(cls, session: Session, tokenizer: ChatTokenizer) -> _Prompts:
        return cls(
            first=tokenizer.first_prompt(session.system, session.turns[0].user),
            between=[tokenizer.between(turn.user) for turn in session.turns[1:]],
        )


class _Replay:
    def __init__(
        self,
        spec: ReplaySpec,
        client: GenerateClient,
        tracker: CeilingTracker,
        prompts: Mapping[str, _Prompts],
        tell: OnEvent,
        before_turn: BeforeTurn | None,
    ) -> None:
        self.records: list[RequestRecord] = []
        self._spec = spec
        self._client = client
        self._tracker = tracker
        self._prompts = prompts
        self._tell = tell
        self._before_turn = before_turn
        self._start_s = time.perf_counter()

    def elapsed_s(self) -> float:
        return time.perf_counter() - self._start_s

    async def run_sessions(self, pending: Iterator[Session]) -> None:
        for session in pending:
            await self._run_session(session)

    async def _run_session(self, session: Session) -> None:
        prompts = self._prompts[session.session]
        prompt = prompts.first
        ready_s = max(self.elapsed_s(), session.start_s)
        for index, turn in enumerate(session.turns):
            due_s = ready_s + turn.think_s
            await asyncio.sleep(max(0.0, due_s - self.elapsed_s()))
            record = await self._run_turn(session, index, prompt, due_s)
            ready_s = self.elapsed_s()
            self.records.append(record)
            not_sent = len(session.turns) - index - 1 if record.error else 0
            self._tell(TurnDone(record, not_sent))
            if record.error:
                return
            if index < len(prompts.between):
                prompt = self._spec.tokenizer.join(
                    prompt, record.output_ids, prompts.between[index]
                )

    async def _run_turn(
        self, session: Session, index: int, prompt: list[int], due_s: float
    ) -> RequestRecord:
        number = index + 1
        if self._before_turn is not None:
            error = await self._prepare(self._before_turn, session.session, number)
            if error:
                return self._not_sent(session.session, number, len(prompt), error)
            due_s = self.elapsed_s()
        ceiling = self._tracker.at_send(prompt)
        request = GenerateRequest(
            input_ids=prompt,
            max_tokens=session.turns[index].max_tokens,
            headers={
                **self._spec.headers,
                "X-Session-ID": session.session,
                "x-smg-routing-key": session.session,
            },
            extra=self._spec.extra_body,
        )
        self._tell(TurnSent(session.session, number))
        answer = await self._client.generate(request)
        if answer.error is None:
            self._tracker.finished(prompt, answer.output_ids)
        sent_s = answer.sent_at_s - self._start_s
        return RequestRecord(
            session=session.session,
            turn=number,
            prompt_tokens=answer.prompt_tokens or len(prompt),
            output_ids=answer.output_ids,
            cached=answer.cached,
            ceiling_tokens=ceiling,
            sent_s=sent_s,
            send_lag_s=max(0.0, sent_s - due_s),
            ttft_s=answer.ttft_s,
            gaps_s=answer.gaps_s,
            latency_s=answer.latency_s,
            error=answer.error,
            worker=answer.worker,
            finished_s=sent_s + answer.latency_s,
            expected_output_tokens=session.turns[index].max_tokens,
        )

    async def _prepare(self, hook: BeforeTurn, session: str, turn: int) -> RequestError | None:
        try:
            async with asyncio.timeout(self._spec.timeout_s):
                await hook(session, turn)
        except Exception as cause:
            return RequestError("before_turn", str(cause) or type(cause).__name__)
        return None

    def _not_sent(
        self, session: str, turn: int, prompt_tokens: int, error: RequestError
    ) -> RequestRecord:
        return RequestRecord(
            session=session,
            turn=turn,
            prompt_tokens=prompt_tokens,
            output_ids=(),
            cached=CachedTokens(),
            ceiling_tokens=0,
            sent_s=self.elapsed_s(),
            send_lag_s=0.0,
            ttft_s=None,
            gaps_s=(),
            latency_s=0.0,
            error=error,
        )


def _ignore(event: ReplayEvent) -> None:
    del event
