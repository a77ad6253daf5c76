"""A run that was cut goes on where it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pdcache.errors import ReplayError
from pdcache.replay import ChatTokenizer, Past, ReplaySpec, TurnDone, TurnSent, generate_chat
from pdcache.replay.journal import PAGES_FILE, read_lines

Sent = tuple[str, tuple[int, ...]]


@pytest.fixture
def spec(tokenizer: ChatTokenizer) -> ReplaySpec:
    chat = generate_chat(
        4, 3, first_words=12, question_words=5, answer_tokens=6, shared_system_words=9, think_s=0
    )
    return ReplaySpec(chat, tokenizer, page_size=4, mode="full_offload", concurrency=2)


@pytest.fixture
def noting(answer: Any, answer_ids: Any) -> Any:
    """A script that notes session and prompt of every request in `noting.sent`."""

    async def script(exchange: Any) -> None:
        prompt = tuple(exchange.body["input_ids"])
        script.sent.append((exchange.headers["x-session-id"], prompt))  # type: ignore[attr-defined]
        await answer(exchange, answer_ids(exchange.body))

    script.sent = []  # type: ignore[attr-defined]
    return script


def cut_after(turns: int, stub: Any, into: Any, script: Any, spec: ReplaySpec, to: Path) -> None:
    """A run that is cancelled when that many turns are done."""

    async def go() -> None:
        async with stub(script) as server:
            left = turns

            def count(event: Any) -> None:
                nonlocal left
                left -= isinstance(event, TurnDone)
                if left == 0:
                    running.cancel()

            running = asyncio.ensure_future(into(to, spec, server.url, on_event=count))
            with pytest.raises(asyncio.CancelledError):
                await running

    asyncio.run(go())


@pytest.mark.parametrize("turns", [1, 4, 7, 11])
def test_no_turn_is_sent_twice_and_none_is_left_out(
    stub: Any, into: Any, replay: Any, noting: Any, spec: ReplaySpec, tmp_path: Path, turns: int
) -> None:
    whole = replay(noting, spec, "whole").result
    every = set(noting.sent)
    noting.sent.clear()
    cut_after(turns, stub, into, noting, spec, tmp_path / "cut")
    before = list(noting.sent)
    past = Past.read(tmp_path / "cut", spec.sessions)
    # One more may end before the cancellation reaches it.
    assert turns <= past.completed < turns + spec.concurrency
    noting.sent.clear()
    done = replay(noting, spec, "cut", past=past)
    again = set(before) & set(noting.sent)
    assert len(again) <= spec.concurrency, "only requests that ran when it was cut"
    assert set(before) | set(noting.sent) == every, "the prompts are those of a run that is not cut"
    assert done.summary.completed == 12 and done.summary.failed == 0

    def answers(result: Any) -> dict[tuple[str, int], tuple[int, ...]]:
        return {(own.session, own.turn): own.output_ids for own in result.records}

    assert answers(done.result) == answers(whole)


def test_time_and_ceilings_go_on(
    stub: Any, into: Any, replay: Any, noting: Any, spec: ReplaySpec, tmp_path: Path
) -> None:
    cut_after(5, stub, into, noting, spec, tmp_path / "cut")
    past = Past.read(tmp_path / "cut", spec.sessions)
    records = replay(noting, spec, "cut", past=past).result.records
    finished = [own.finished_s for own in records]
    assert finished == sorted(finished)
    assert records[past.completed].sent_s >= past.elapsed_s
    assert all(own.ceiling_tokens > 0 for own in records if own.turn > 1)
    pages = {(line["session"], line["turn"]) for line in read_lines(tmp_path / "cut" / PAGES_FILE)}
    assert pages == {(own.session, own.turn) for own in records}


def test_failed_turns_are_tried_again(
    replay: Any, noting: Any, spec: ReplaySpec, tmp_path: Path
) -> None:
    async def broken(exchange: Any) -> None:
        if exchange.headers["x-session-id"] == "s2":
            await exchange.head(503)
            await exchange.end(done=False)
        else:
            await noting(exchange)

    assert replay(broken, spec).summary.failed == 1
    noting.sent.clear()
    done = replay(noting, spec, past=Past.read(tmp_path / "run", spec.sessions))
    assert [name for name, _ in noting.sent] == ["s2"] * 3
    assert done.summary.completed == 12
    assert done.result.failed == ()


def test_a_finished_run_sends_nothing_more(
    replay: Any, noting: Any, spec: ReplaySpec, tmp_path: Path
) -> None:
    replay(noting, spec)
    events: list[Any] = []
    done = replay(
        noting, spec, past=Past.read(tmp_path / "run", spec.sessions), on_event=events.append
    )
    assert not any(isinstance(event, TurnSent) for event in events)
    assert done.summary.completed == 12


def test_a_journal_that_cannot_be_written_ends_the_run(
    stub: Any, noting: Any, spec: ReplaySpec, tmp_path: Path
) -> None:
    from pdcache.replay import Journal, run_replay

    async def go() -> None:
        async with stub(noting) as server:
            with Journal(tmp_path, {}) as journal:
                journal._files["pages.jsonl"] = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
                await run_replay(spec, server.url, journal)

    with pytest.raises(ReplayError, match=r"pages\.jsonl cannot be written"):
        asyncio.run(go())
