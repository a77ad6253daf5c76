from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pdcache.errors import ReplayError
from pdcache.replay import (
    ChatTokenizer,
    Journal,
    ReplayEvent,
    ReplaySpec,
    ReplayStarted,
    Session,
    Turn,
    TurnDone,
    TurnSent,
    generate_chat,
    run_replay,
)
from pdcache.reports import RunFolder, build_report

PAGE = 4


class UnlimitedCache:
    """Prefixes an ideal engine holds, by comparison with every earlier request."""

    def __init__(self, answers: bool) -> None:
        self._answers = answers
        self._known: list[list[int]] = []

    def hit(self, prompt: list[int], ids: list[int]) -> int:
        best = 0
        for known in self._known:
            same = 0
            while same < min(len(known), len(prompt) - 1) and known[same] == prompt[same]:
                same += 1
            best = max(best, same // PAGE * PAGE)
        self._known.append([*prompt, *ids[:-1]] if self._answers else prompt)
        return best


def chats(tokenizer: ChatTokenizer, sessions: int = 3, **options: Any) -> ReplaySpec:
    chat = generate_chat(
        sessions,
        turns=3,
        first_words=12,
        question_words=5,
        answer_tokens=11,
        shared_system_words=9,
        think_s=0,
    )
    return ReplaySpec(chat, tokenizer, page_size=PAGE, mode="full_offload", **options)


def engine(answer: Any, answer_ids: Any, cache: UnlimitedCache) -> Any:
    async def script(exchange: Any) -> None:
        ids = answer_ids(exchange.body)
        await answer(exchange, ids, cached={"device": cache.hit(exchange.body["input_ids"], ids)})

    return script


def test_an_engine_that_keeps_all_is_at_the_ceiling(
    replay: Any, answer: Any, answer_ids: Any, tokenizer: ChatTokenizer
) -> None:
    script = engine(answer, answer_ids, UnlimitedCache(answers=True))
    result = replay(script, chats(tokenizer, concurrency=1)).result
    report = build_report(RunFolder.of_result(result))
    assert [turn["hit_over_ceiling"] for turn in report["turns"]] == [1.0, 1.0, 1.0]
    # The second and third session find the system prompt that the first one left.
    assert report["turns"][0]["ceiling_tokens"] > 0
    assert report["losses"]["unexplained_tokens"] == 0
    assert report["losses"]["over_ceiling_tokens"] == 0


def test_an_engine_that_forgets_answers_stays_below_the_ceiling(
    replay: Any, answer: Any, answer_ids: Any, tokenizer: ChatTokenizer
) -> None:
    script = engine(answer, answer_ids, UnlimitedCache(answers=False))
    report = build_report(
        RunFolder.of_result(replay(script, chats(tokenizer, concurrency=1)).result)
    )
    lost = report["losses"]["unexplained_tokens"]
    # Six later turns miss an answer of 10 tokens with KV: two or three whole pages each.
    assert 6 * 2 * PAGE <= lost <= 6 * 3 * PAGE
    assert report["total"]["hit_over_ceiling"] < 1.0


def test_each_prompt_stands_on_the_tokens_before_it(
    replay: Any, answer: Any, answer_ids: Any, tokenizer: ChatTokenizer
) -> None:
    bodies: list[list[int]] = []
    headers: list[dict[str, str]] = []

    async def script(exchange: Any) -> None:
        bodies.append(exchange.body["input_ids"])
        headers.append(exchange.headers)
        await answer(exchange, answer_ids(exchange.body))

    result = replay(script, chats(tokenizer, sessions=1)).result
    for earlier, later, record in zip(bodies, bodies[1:], result.records, strict=False):
        known = [*earlier, *record.output_ids]
        assert later[: len(known)] == known
    assert {line["x-session-id"] for line in headers} == {"s1"}
    assert {line["x-smg-routing-key"] for line in headers} == {"s1"}


def test_a_failed_turn_ends_its_session_and_no_other(
    replay: Any, answer: Any, answer_ids: Any, tokenizer: ChatTokenizer
) -> None:
    async def script(exchange: Any) -> None:
        if exchange.headers["x-session-id"] == "s2":
            await exchange.head(503)
            await exchange.end(done=False)
        else:
            await answer(exchange, answer_ids(exchange.body))

    events: list[ReplayEvent] = []
    result = replay(script, chats(tokenizer), on_event=events.append).result
    assert [(r.session, r.turn) for r in result.failed] == [("s2", 1)]
    assert sorted((r.session, r.turn) for r in result.completed) == [
        (name, turn) for name in ("s1", "s3") for turn in (1, 2, 3)
    ]
    assert events[0] == ReplayStarted(9)
    assert sum(isinstance(event, TurnSent) for event in events) == 7
    assert [e.not_sent for e in events if isinstance(e, TurnDone) and e.record.error] == [2]


def test_a_failed_request_raises_no_ceiling(
    replay: Any, answer: Any, tokenizer: ChatTokenizer
) -> None:
    async def script(exchange: Any) -> None:
        if exchange.headers["x-session-id"] == "a":
            await exchange.head()
            await exchange.event({"error": {"message": "decode lost"}})
            await exchange.end()
        else:
            await answer(exchange, [7, 8])

    sessions = [Session(name, (Turn("The same question.", 2),)) for name in ("a", "b", "c")]
    spec = ReplaySpec(sessions, tokenizer, page_size=1, mode="prefill_only", concurrency=1)
    failed, first, second = replay(script, spec).result.records
    assert failed.error is not None
    assert first.ceiling_tokens == 0
    assert second.ceiling_tokens == second.prompt_tokens - 1


def test_no_more_sessions_run_than_allowed(
    replay: Any, answer: Any, answer_ids: Any, tokenizer: ChatTokenizer
) -> None:
    running: set[str] = set()
    most: list[int] = []
    two = asyncio.Event()

    async def script(exchange: Any) -> None:
        running.add(exchange.headers["x-session-id"])
        most.append(len(running))
        if len(running) == 2:
            two.set()
        await two.wait()
        await answer(exchange, answer_ids(exchange.body))

    def ended(event: ReplayEvent) -> None:
        if isinstance(event, TurnDone) and event.record.turn == 3:
            running.discard(event.record.session)

    result = replay(script, chats(tokenizer, sessions=5, concurrency=2), on_event=ended).result
    assert len(result.completed) == 15
    assert max(most) == 2


def test_think_time_and_start_are_waited_for_and_are_no_lag(
    replay: Any, answer: Any, answer_ids: Any, tokenizer: ChatTokenizer
) -> None:
    async def script(exchange: Any) -> None:
        await answer(exchange, answer_ids(exchange.body))

    session = Session("s1", (Turn("Hi.", 2), Turn("And?", 2, think_s=0.3)), start_s=0.2)
    spec = ReplaySpec([session], tokenizer, page_size=PAGE, mode="prefill_only")
    first, second = replay(script, spec).result.records
    assert first.sent_s >= 0.2
    assert second.sent_s - (first.sent_s + first.latency_s) >= 0.3
    assert second.send_lag_s < second.sent_s - first.sent_s - 0.3


def test_sessions_begin_in_the_order_of_their_start(
    replay: Any, answer: Any, answer_ids: Any, tokenizer: ChatTokenizer
) -> None:
    async def script(exchange: Any) -> None:
        await answer(exchange, answer_ids(exchange.body))

    late, early = (Session(n, (Turn("Hi.", 2),), start_s=s) for n, s in (("a", 0.05), ("b", 0.0)))
    spec = ReplaySpec([late, early], tokenizer, page_size=1, mode="prefill_only", concurrency=1)
    assert [record.session for record in replay(script, spec).result.records] == ["b", "a"]


def test_the_hook_runs_before_each_sending(
    replay: Any, answer: Any, answer_ids: Any, tokenizer: ChatTokenizer
) -> None:
    order: list[tuple[str, str, int]] = []

    async def script(exchange: Any) -> None:
        await answer(exchange, answer_ids(exchange.body))

    async def flush(session: str, turn: int) -> None:
        order.append(("hook", session, turn))

    def sent(event: ReplayEvent) -> None:
        if isinstance(event, TurnSent):
            order.append(("sent", event.session, event.turn))

    spec = chats(tokenizer, sessions=1)
    replay(script, spec, before_turn=flush, on_event=sent)
    assert order == [(what, "s1", turn) for turn in (1, 2, 3) for what in ("hook", "sent")]


@pytest.mark.parametrize("how", ["raises", "hangs"])
def test_a_hook_that_fails_is_that_turns_error(
    replay: Any, answer: Any, answer_ids: Any, tokenizer: ChatTokenizer, how: str
) -> None:
    async def script(exchange: Any) -> None:
        await answer(exchange, answer_ids(exchange.body))

    async def flush(session: str, turn: int) -> None:
        if turn == 2 and how == "raises":
            raise RuntimeError("flush refused")
        if turn == 2:
            await asyncio.Event().wait()

    spec = chats(tokenizer, sessions=1, timeout_s=5.0 if how == "raises" else 0.5)
    first, second = replay(script, spec, before_turn=flush).result.records
    assert first.error is None
    assert second.error is not None
    assert second.error.kind == "before_turn"
    assert second.error.message == ("flush refused" if how == "raises" else "TimeoutError")


def test_an_unreachable_target_is_refused_before_anything_is_sent(
    tokenizer: ChatTokenizer, free_url: str, tmp_path: Path
) -> None:
    events: list[ReplayEvent] = []
    with pytest.raises(ReplayError, match="cannot be used"), Journal(tmp_path, {}) as journal:
        asyncio.run(run_replay(chats(tokenizer), free_url, journal, on_event=events.append))
    assert events == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"concurrency": 0}, "concurrency is 0"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"time_scale": 0}, "time_scale is 0"),
        ({"extra_body": {"a": object()}}, "extra_body is not JSON"),
        ({"sessions": []}, "no session"),
        ({"sessions": [Session("s", (Turn("a", 1),))] * 2}, "share a name"),
    ],
)
def test_a_spec_that_cannot_run_is_refused(
    tokenizer: ChatTokenizer, free_url: str, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    given = {"sessions": generate_chat(1), **options}
    spec = ReplaySpec(tokenizer=tokenizer, page_size=PAGE, mode="prefill_only", **given)
    with pytest.raises(ReplayError, match=says):
        asyncio.run(run_replay(spec, free_url, Journal(tmp_path, {})))
