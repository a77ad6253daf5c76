from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pdcache.errors import ReplayError
from pdcache.replay import CachedTokens
from pdcache.replay.client import Answer, GenerateClient, GenerateRequest

REQUEST = GenerateRequest([1, 2, 3], 3, {"X-Session-ID": "s1"})


def generate(
    stub: Callable[..., Any],
    script: Callable[..., Any],
    request: GenerateRequest = REQUEST,
    timeout_s: float = 30.0,
) -> tuple[Answer, dict[str, Any], dict[str, str]]:
    """The answer, and the body and headers that the stub received."""

    async def run() -> tuple[Answer, dict[str, Any], dict[str, str]]:
        async with (
            stub(script) as server,
            GenerateClient(server.url, timeout_s=timeout_s) as client,
        ):
            answered = await client.generate(request)
            return answered, server.received[0].body, server.received[0].headers

    return asyncio.run(run())


@pytest.mark.parametrize("incremental", [False, True])
@pytest.mark.parametrize("counted", [False, True])
def test_an_answer_arrives_whole(stub: Any, answer: Any, incremental: bool, counted: bool) -> None:
    async def script(exchange: Any) -> None:
        tiers = {"device": 1, "host": 0, "storage": 2}
        await answer(exchange, [7, 8, 9], incremental=incremental, counted=counted, cached=tiers)

    answered, _, _ = generate(stub, script)
    assert answered.error is None
    assert answered.output_ids == (7, 8, 9)
    assert answered.cached == CachedTokens(1, 0, 2)
    assert answered.prompt_tokens == 3
    assert answered.ttft_s is not None
    assert 0 < answered.ttft_s <= answered.latency_s
    assert len(answered.gaps_s) == 2
    assert answered.ttft_s + sum(answered.gaps_s) == pytest.approx(answered.latency_s)


def test_the_body_asks_for_greedy_tokens_and_keeps_extra_keys(stub: Any, answer: Any) -> None:
    async def script(exchange: Any) -> None:
        await answer(exchange, [7])

    extra = {"cache_salt": "a", "stream": False, "sampling_params": {"temperature": 1}}
    _, body, headers = generate(
        stub, script, GenerateRequest([1, 2], 3, {"X-Session-ID": "s1"}, extra)
    )
    assert body == {
        "input_ids": [1, 2],
        "stream": True,
        "cache_salt": "a",
        "sampling_params": {"temperature": 1, "max_new_tokens": 3, "ignore_eos": True},
    }
    assert headers["x-session-id"] == "s1"


def test_the_workers_are_known_when_the_answer_names_them(stub: Any) -> None:
    async def script(exchange: Any) -> None:
        await exchange.head(x_smg_routed_worker_id="http://d1:1", x_pdcache_prefill="p1:2")
        await exchange.event({"output_ids": [7]})
        await exchange.end()

    answered, _, _ = generate(stub, script)
    assert (answered.worker, answered.prefill) == ("http://d1:1", "p1:2")


@pytest.mark.parametrize(
    ("status", "text", "says"),
    [
        (503, b'{"error": {"message": "no_available_workers"}}', "no_available_workers"),
        (400, b'{"error": "too long"}', "too long"),
        (500, b'data: {"error": {"message": "decode lost"}}\n\ndata: [DONE]\n\n', "decode lost"),
        (502, b"bad gateway", "bad gateway"),
    ],
)
def test_an_error_status_is_recorded_with_its_text(
    stub: Any, status: int, text: bytes, says: str
) -> None:
    async def script(exchange: Any) -> None:
        await exchange.head(status)
        await exchange.chunk(text)
        await exchange.end(done=False)

    answered, _, _ = generate(stub, script)
    assert answered.error is not None
    assert answered.error.kind == f"http_{status}"
    assert answered.error.message == says
    assert answered.ttft_s is None


def test_an_error_event_keeps_what_arrived_before(stub: Any) -> None:
    async def script(exchange: Any) -> None:
        await exchange.head()
        await exchange.event({"output_ids": [7]})
        await exchange.event({"error": {"message": "decode lost", "type": "stream_error"}})
        await exchange.end()

    answered, _, _ = generate(stub, script)
    assert answered.error is not None
    assert answered.error.kind == "stream_error"
    assert answered.output_ids == (7,)


@pytest.mark.parametrize("how", ["cut", "ended"])
def test_a_stream_that_breaks_is_recorded(stub: Any, how: str) -> None:
    async def script(exchange: Any) -> None:
        await exchange.head()
        await exchange.event({"output_ids": [7]})
        if how == "cut":
            exchange.cut()
        else:
            await exchange.end(done=False)

    answered, _, _ = generate(stub, script)
    assert answered.error is not None
    assert answered.error.kind == "broken_stream"


@pytest.mark.parametrize("started", [False, True])
def test_a_silent_server_is_a_timeout(stub: Any, started: bool) -> None:
    async def silent(exchange: Any) -> None:
        if started:
            await exchange.head()
            await exchange.event({"output_ids": [7]})
        await asyncio.Event().wait()

    answered, _, _ = generate(stub, silent, timeout_s=0.2)
    assert answered.error is not None
    assert answered.error.kind == "timeout"
    assert answered.latency_s < 10
    assert answered.output_ids == ((7,) if started else ())


def test_a_connection_left_open_after_the_end_is_neither_an_error_nor_waited_for(stub: Any) -> None:
    async def script(exchange: Any) -> None:
        await exchange.head()
        await exchange.event({"output_ids": [7]})
        await exchange.chunk(b"data: [DONE]\n\n")
        await asyncio.Event().wait()

    async def run() -> Answer:
        async with (
            asyncio.timeout(20),
            stub(script) as server,
            GenerateClient(server.url, timeout_s=1000) as client,
        ):
            return await client.generate(REQUEST)

    answered = asyncio.run(run())
    assert answered.error is None
    assert answered.output_ids == (7,)


def test_a_refused_connection_is_recorded(free_url: str) -> None:
    async def run() -> Answer:
        async with GenerateClient(free_url, timeout_s=5) as client:
            return await client.generate(REQUEST)

    answered = asyncio.run(run())
    assert answered.error is not None
    assert answered.error.kind == "connect"


def test_a_target_that_is_not_there_is_named_with_a_remedy(free_url: str) -> None:
    async def run() -> None:
        async with GenerateClient(free_url, timeout_s=5) as client:
            await client.check_reachable()

    with pytest.raises(ReplayError, match=free_url) as caught:
        asyncio.run(run())
    assert caught.value.remedy


def test_a_target_without_either_page_is_refused(stub: Any, answer: Any) -> None:
    async def run() -> None:
        async with (
            stub(answer, health=0) as server,
            GenerateClient(server.url, timeout_s=5) as client,
        ):
            await client.check_reachable()

    with pytest.raises(ReplayError, match="/v1/models answers 404"):
        asyncio.run(run())


@pytest.mark.parametrize(
    "target", ["localhost:80", "http://", "http://h:1/v1", "ftp://h:1", "http://h:x", "h"]
)
def test_a_target_is_an_address_without_a_path(target: str) -> None:
    with pytest.raises(ReplayError, match="http://host:port"):
        GenerateClient(target, timeout_s=5)
