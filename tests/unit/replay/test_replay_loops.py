"""Open loop, blocks, warm-up, context, and a target that goes away."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdcache.errors import ReplayError
from pdcache.replay import Arrivals, ChatTokenizer, ReplaySpec, Session, Turn, Warmup
from pdcache.replay.dialects import DIALECTS


def one_turn(name: str, start_s: float = 0.0) -> Session:
    return Session(name, (Turn(f"Question of {name}.", 2),), start_s=start_s)


def of_blocks(name: str, *prompts: tuple[tuple[int, ...], int]) -> Session:
    turns = tuple(Turn(None, 2, blocks=blocks, input_tokens=size) for blocks, size in prompts)
    return Session(name, turns, block_size=8)


@pytest.fixture
def script(answer: Any, answer_ids: Any) -> Any:
    async def run(exchange: Any) -> None:
        await answer(exchange, answer_ids(exchange.body))

    return run


def test_arrivals_do_not_wait_for_a_target_that_does_not_keep_up(
    replay: Any, answer: Any, tokenizer: ChatTokenizer
) -> None:
    all_there = asyncio.Event()
    running: set[str] = set()

    async def slow(exchange: Any) -> None:
        running.add(exchange.headers["x-session-id"])
        if len(running) == 20:
            all_there.set()
        await all_there.wait()
        await answer(exchange, [7, 8])

    sessions = [one_turn(f"s{i}") for i in range(20)]
    spec = ReplaySpec(sessions, tokenizer, 4, "full_offload", concurrency=1,
                      arrivals=Arrivals.parse("constant:1000"), timeout_s=20)  # fmt: skip
    assert len(replay(slow, spec).result.completed) == 20


def test_trace_times_are_scaled_and_lag_is_against_them(
    replay: Any, script: Any, tokenizer: ChatTokenizer
) -> None:
    sessions = [one_turn("b", 4.0), one_turn("a", 2.0)]
    spec = ReplaySpec(sessions, tokenizer, 4, "full_offload",
                      arrivals=Arrivals("trace"), time_scale=0.1)  # fmt: skip
    a, b = replay(script, spec).result.records
    assert (a.session, b.session) == ("a", "b")
    assert a.sent_s - a.send_lag_s == pytest.approx(0.2)
    assert b.sent_s - b.send_lag_s == pytest.approx(0.4)


@given(st.integers(0, 9), st.floats(0.5, 1000), st.integers(1, 50))
def test_poisson_arrivals_depend_on_the_seed_only(seed: int, rate: float, count: int) -> None:
    sessions = [one_turn(f"s{i}") for i in range(count)]
    due = Arrivals("poisson", rate).due(sessions, seed=seed)
    times = [at_s for at_s, _ in due]
    assert due == Arrivals("poisson", rate).due(sessions, seed=seed)
    assert times == sorted(times) and times[0] > 0
    assert [session for _, session in due] == sessions


def test_poisson_arrivals_have_their_rate() -> None:
    due = Arrivals("poisson", 50.0).due([one_turn(f"s{i}") for i in range(5000)], seed=1)
    assert due[-1][0] == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("text", ["poisson", "poisson:0", "poisson:x", "trace:1", "constant:nan"])
def test_arrivals_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ReplayError, match="poisson:RATE"):
        Arrivals.parse(text)


@pytest.mark.parametrize("text", ["-1", "x", "1.5", "-1s", "nans", "s", ""])
def test_a_warmup_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ReplayError, match="30s"):
        Warmup.parse(text)


def test_the_first_requests_are_marked_as_warmup(
    replay: Any, script: Any, tokenizer: ChatTokenizer
) -> None:
    sessions = [one_turn(f"s{i}") for i in range(5)]
    spec = ReplaySpec(sessions, tokenizer, 4, "full_offload", concurrency=1,
                      warmup=Warmup.parse("2"))  # fmt: skip
    records = replay(script, spec).result.records
    assert [record.warmup for record in records] == [True, True, False, False, False]
    timed = ReplaySpec(sessions, tokenizer, 4, "full_offload", warmup=Warmup.parse("100s"))
    assert all(record.warmup for record in replay(script, timed, "timed").result.records)


@pytest.mark.parametrize("name", ["sglang", "openai-completions"])
def test_equal_blocks_are_sent_as_equal_tokens(
    replay: Any, answer: Any, tokenizer: ChatTokenizer, name: str
) -> None:
    prompts: dict[str, list[int]] = {}

    async def script(exchange: Any) -> None:
        key = "input_ids" if name == "sglang" else "prompt"
        prompts[exchange.headers["x-session-id"]] = exchange.body[key]
        exchange.body["input_ids"] = exchange.body[key]
        if name == "sglang":
            await answer(exchange, [7, 8])
        else:
            await exchange.head()
            await exchange.event({"choices": [{"text": "ab"}]})
            await exchange.end()

    sessions = [of_blocks("a", ((1, 2, 3), 20)), of_blocks("b", ((1, 2, 4), 24))]
    spec = ReplaySpec(sessions, tokenizer, 8, "full_offload", concurrency=1,
                      dialect=DIALECTS[name])  # fmt: skip
    first, second = replay(script, spec).result.records
    assert prompts["a"][:16] == prompts["b"][:16] and len(prompts["a"]) == 20
    assert prompts["a"][16:] != prompts["b"][16:20]
    assert (first.prompt_tokens, second.ceiling_tokens) == (20, 16)
    assert set(prompts["a"]) <= set(tokenizer.ordinary_ids)


def test_a_prompt_over_the_context_is_an_error_of_its_turn(
    replay: Any, script: Any, tokenizer: ChatTokenizer
) -> None:
    sessions = [of_blocks("long", ((1,), 8), ((1, 2), 16)), of_blocks("short", ((1,), 8))]
    spec = ReplaySpec(sessions, tokenizer, 8, "full_offload", context_tokens=12)
    done = replay(script, spec)
    assert {(r.session, r.turn) for r in done.result.completed} == {("long", 1), ("short", 1)}
    (failed,) = done.result.failed
    assert failed.error is not None and failed.error.kind == "context"
    assert "16 tokens" in failed.error.message and failed.prompt_tokens == 16


def test_a_target_that_goes_away_for_good_ends_the_run(
    stub: Any, into: Any, answer: Any, tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    sessions = [one_turn(f"s{i}") for i in range(50)]
    spec = ReplaySpec(sessions, tokenizer, 4, "full_offload", concurrency=2, give_up_s=0.2)

    async def go() -> Any:
        async with stub(lambda exchange: answer(exchange, [7, 8])) as server:

            def leave(event: Any) -> None:
                server.close()

            return await into(tmp_path / "run", spec, server.url, on_event=leave)

    done = asyncio.run(go())
    assert done.summary.gave_up is not None and "gone" in done.summary.gave_up
    assert done.summary.failed == len(done.result.failed)
    assert 1 <= len(done.result.failed) <= 4, "it did not stop sending"
    assert all(r.error.kind == "connect" for r in done.result.failed)


def test_a_target_that_comes_back_is_waited_for(
    stub: Any, into: Any, answer: Any, tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    sessions = [one_turn(f"s{i}") for i in range(6)]
    spec = ReplaySpec(sessions, tokenizer, 4, "full_offload", concurrency=1, give_up_s=30)

    async def go() -> Any:
        async with stub(lambda exchange: answer(exchange, [7, 8])) as server:
            left = False

            def leave_for_a_moment(event: Any) -> None:
                nonlocal left
                if not left:
                    left = True
                    server.close()
                    again = asyncio.get_running_loop().create_task
                    asyncio.get_running_loop().call_later(
                        0.3, lambda: again(server.open(server.port))
                    )

            return await into(tmp_path / "run", spec, server.url, on_event=leave_for_a_moment)

    done = asyncio.run(go())
    assert done.summary.gave_up is None
    assert done.summary.failed == 1 and done.summary.completed == 5
