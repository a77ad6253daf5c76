"""One turn: sent when it is due, its answer read, and noted in the journal."""

from __future__ import annotations

import asyncio
import secrets
from array import array
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from pdcache.replay.ceiling import CeilingTracker, PageChain
from pdcache.replay.client import GenerateClient, GenerateRequest
from pdcache.replay.clock import Clock
from pdcache.replay.journal import Journal, Pages
from pdcache.replay.past import Past
from pdcache.replay.prompts import Prompt
from pdcache.replay.records import CachedTokens, RequestError, RequestRecord
from pdcache.replay.sessions import Session
from pdcache.replay.spec import BeforeTurn, OnEvent, ReplaySpec, TurnDone, TurnSent


class TurnRunner:
    """Sends turns, and counts how they ended.

    Attributes:
        completed: turns with a whole answer.
        failed: turns without.
        first_error: the first record that failed.
        steady_from_s: when the first request after the warm-up was sent; None before it.
    """

    def __init__(
        self,
        spec: ReplaySpec,
        client: GenerateClient,
        journal: Journal,
        tracker: CeilingTracker,
        clock: Clock,
        tell: OnEvent,
        before_turn: BeforeTurn | None,
        past: Past,
    ) -> None:
        """`past`: the warm-up counts what it sent too."""
        self.completed = self.failed = 0
        self.first_error: RequestRecord | None = None
        self.steady_from_s = past.steady_from_s
        self._spec, self._client, self._journal = spec, client, journal
        self._tracker, self._clock, self._tell = tracker, clock, tell
        self._before_turn = before_turn
        self._sent = past.sent

    async def run(
        self, session: Session, number: int, prompt: Prompt, due_s: float
    ) -> tuple[RequestRecord, str]:
        """Send turn `number` (from 1) at `due_s`; what goes wrong is in the record.

        Also gives the text of the answer, of dialects that have one.

        Raises:
            ReplayError: the journal cannot be written.
        """
        spec, clock, ids = self._spec, self._clock, prompt.ids
        turn = session.turns[number - 1]
        chain = PageChain(spec.page_size, ids)
        request = GenerateRequest(
            ids, turn.max_tokens, self._headers(session), self._body(), prompt.messages
        )
        await clock.wait_until(due_s)
        refused = self._too_long(len(ids), turn.max_tokens)
        if refused is None and self._before_turn is not None:
            refused = await self._prepare(self._before_turn, session.session, number)
            due_s = clock.now_s()
        if refused is not None:
            record = self._not_sent(session, number, ids, refused)
            return self._end(session, record, None, False), ""
        ceiling = self._tracker.at_send(chain.ids, len(ids))
        warmup = self._warms_up()
        self._tell(TurnSent(session.session, number))
        answer = await self._client.generate(request)
        output_ids = answer.output_ids or self._spec.tokenizer.ids(answer.text)
        pages = None
        if answer.error is None:
            prompt_pages = chain.ids.copy()
            chain.extend(output_ids[:-1])
            pages = Pages(prompt_pages, chain.ids[len(prompt_pages) :])
            self._tracker.finished(pages.prompt, pages.answer)
        sent_s = clock.of(answer.sent_at_s)
        record = RequestRecord(
            session=session.session,
            turn=number,
            prompt_tokens=answer.prompt_tokens or len(ids),
            output_ids=output_ids,
            cached=answer.cached,
            ceiling_tokens=ceiling,
            sent_s=sent_s,
            send_lag_s=max(0.0, sent_s - due_s),
            ttft_s=answer.ttft_s,
            gaps_s=answer.gaps_s,
            latency_s=answer.latency_s,
            error=answer.error,
            worker=self._name(answer.worker),
            prefill=self._name(answer.prefill),
            prompt_ids_hash=_hash(ids),
            finished_s=sent_s + answer.latency_s,
            expected_output_tokens=turn.max_tokens,
            warmup=warmup,
            counted_tokens=answer.counted_tokens,
        )
        return self._end(session, record, pages, True), answer.text

    def _headers(self, session: Session) -> dict[str, str]:
        name = session.session
        return {**self._spec.headers, "X-Session-ID": name, "x-smg-routing-key": name}

    def _name(self, address: str | None) -> str | None:
        return None if address is None else self._spec.workers.get(address, address)

    def _body(self) -> Mapping[str, Any]:
        """The salt seeds the hashes of all pages, on every tier."""
        if self._spec.reuse:
            return self._spec.extra_body
        return {**self._spec.extra_body, "cache_salt": secrets.token_hex(8)}

    def _too_long(self, prompt_tokens: int, max_tokens: int) -> RequestError | None:
        limit = self._spec.context_tokens
        if limit is None or prompt_tokens + max_tokens <= limit:
            return None
        return RequestError(
            "context",
            f"{prompt_tokens} tokens and an answer of {max_tokens} are over the model's {limit}",
        )

    async def _prepare(self, hook: BeforeTurn, session: str, turn: int) -> RequestError | None:
        try:
            async with asyncio.timeout(self._spec.timeout_s):
                await hook(session, turn)
        except Exception as cause:
            return RequestError("before_turn", str(cause) or type(cause).__name__)
        return None

    def _warms_up(self) -> bool:
        warmup, now_s = self._spec.warmup, self._clock.now_s()
        self._sent += 1
        if self._sent <= warmup.requests or now_s < warmup.seconds:
            return True
        if self.steady_from_s is None:
            self.steady_from_s = now_s
        return False

    def _not_sent(
        self, session: Session, turn: int, ids: Sequence[int], error: RequestError
    ) -> RequestRecord:
        now_s = self._clock.now_s()
        return RequestRecord(
            session=session.session,
            turn=turn,
            prompt_tokens=len(ids),
            output_ids=(),
            cached=CachedTokens(),
            ceiling_tokens=0,
            sent_s=now_s,
            send_lag_s=0.0,
            ttft_s=None,
            gaps_s=(),
            latency_s=0.0,
            error=error,
            prompt_ids_hash=_hash(ids),
            finished_s=now_s,
            expected_output_tokens=session.turns[turn - 1].max_tokens,
        )

    def _end(
        self, session: Session, record: RequestRecord, pages: Pages | None, sent: bool
    ) -> RequestRecord:
        self._journal.request(record, pages)
        if record.error is None:
            self.completed += 1
            self._tell(TurnDone(record, 0))
        else:
            self.failed += 1
            self.first_error = self.first_error or record
            self._tell(TurnDone(record, len(session.turns) - record.turn, sent))
        return record


def _hash(token_ids: Sequence[int]) -> str:
    return blake2b(array("q", token_ids).tobytes(), digest_size=8).hexdigest()
