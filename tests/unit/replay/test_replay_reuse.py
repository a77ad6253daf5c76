"""What requests may reuse of each other: a salt of all, one of each, and flushes between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from pdcache.errors import ReplayError
from pdcache.replay import ChatTokenizer, Options, ReplaySpec, Target, generate_chat, launch
from pdcache.replay.flush import flushing
from pdcache.replay.sessions import dump_sessions
from pdcache.reports import write_report


@pytest.fixture
def begun(tmp_path: Path, make_model_folder: Callable[..., Path]) -> Callable[..., Any]:
    """Options and a target for a small chat against an address."""

    def begin(url: str, **options: Any) -> tuple[Options, Target]:
        chat = generate_chat(2, 2, first_words=9, question_words=4, answer_tokens=5, think_s=0)
        dump_sessions(chat, tmp_path / "chat.jsonl")
        model = str(make_model_folder())
        target = Target("x", url, model, "full_offload", 4, "m")
        return Options(tmp_path / "chat.jsonl", concurrency=1, **options), target

    return begin


def sent(stub: Any, answer: Any, answer_ids: Any, begun: Any, out: Path, **options: Any) -> Any:
    """Bodies of a replay with options."""

    async def script(exchange: Any) -> None:
        await answer(exchange, answer_ids(exchange.body))

    async def run() -> list[dict[str, Any]]:
        async with stub(script) as server:
            own, target = begun(server.url, **options)
            await launch(own, target, out)
            return [exchange.body for exchange in server.received]

    return asyncio.run(run())


def test_a_salt_is_that_of_every_request(
    stub: Any, answer: Any, answer_ids: Any, begun: Any, tmp_path: Path
) -> None:
    bodies = sent(stub, answer, answer_ids, begun, tmp_path / "out", salt="run-1")
    assert [body["cache_salt"] for body in bodies] == ["run-1"] * 4


def test_without_reuse_no_two_requests_share_a_salt_and_the_report_says_so(
    stub: Any, answer: Any, answer_ids: Any, begun: Any, tmp_path: Path
) -> None:
    bodies = sent(stub, answer, answer_ids, begun, tmp_path / "out", reuse=False, salt="run-1")
    assert len({body["cache_salt"] for body in bodies}) == len(bodies) == 4
    report = write_report(tmp_path / "out")
    assert report["reuse"] is False
    assert report["losses"]["reuse_off_tokens"] == report["losses"]["ceiling_tokens"] > 0


def test_ordinary_requests_have_no_salt(
    stub: Any, answer: Any, answer_ids: Any, begun: Any, tmp_path: Path
) -> None:
    bodies = sent(stub, answer, answer_ids, begun, tmp_path / "out")
    assert all("cache_salt" not in body for body in bodies)


def test_a_flush_reaches_every_worker_before_each_turn_and_waits_for_idle_ones(
    replay: Any, answer: Any, answer_ids: Any, tokenizer: ChatTokenizer
) -> None:
    order: list[str] = []
    busy = iter([400, 200, 200, 200, 200, 200])

    def admin(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/flush_cache"
        status = next(busy)
        order.append(f"{request.url.host} {status}")
        return httpx.Response(status)

    async def script(exchange: Any) -> None:
        order.append("turn")
        await answer(exchange, answer_ids(exchange.body))

    workers = [SimpleNamespace(name=name, url=f"http://{name}") for name in ("p0", "p1")]
    hook = flushing(workers, lambda: httpx.AsyncClient(transport=httpx.MockTransport(admin)))  # type: ignore[arg-type]
    chat = generate_chat(1, 2, first_words=9, question_words=4, answer_tokens=5, think_s=0)
    replay(script, ReplaySpec(chat, tokenizer, page_size=4, mode="full_offload"), before_turn=hook)
    first = order[: order.index("turn")]
    assert sorted(first) == ["p0 200", "p0 400", "p1 200"]
    assert sorted(order[len(first) + 1 : -1]) == ["p0 200", "p1 200"]
    assert order[-1] == "turn"


@pytest.mark.parametrize(
    ("known", "options", "told"),
    [
        (False, {}, "the workers behind an address are not known"),
        (True, {"concurrency": 2}, "a flush waits until the workers are idle"),
        (True, {"arrivals": "constant:1"}, "a flush waits until the workers are idle"),
    ],
)
def test_a_flush_that_cannot_be_is_refused_before_anything_is_written(
    begun: Any, free_url: str, tmp_path: Path, known: bool, options: dict[str, Any], told: str
) -> None:
    own, target = begun(free_url, flush=True)
    if known:
        worker: Any = SimpleNamespace(name="p0", url="http://p0")
        target = replace(target, flushable=(worker,), new_client=httpx.AsyncClient)
    with pytest.raises(ReplayError, match=told):
        asyncio.run(launch(replace(own, **options), target, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
