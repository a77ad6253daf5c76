"""Talking to SGLang: its flags, its metrics, a flush, a generation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
import pytest
from golden.plans import golden_plan

from pdcache.errors import ClusterError
from pdcache.sglang.admin import flush, metrics, parse_metrics
from pdcache.sglang.flags import emit, flag, words
from pdcache.sglang.generate import Generation, Pair, on_pair, request_body, through_gateway
from pdcache.topology.setting import Setting

PREFILL = golden_plan("full_offload").process("prefill-0")
DECODE = golden_plan("full_offload").process("decode-0")
T = TypeVar("T")
Handler = Callable[[httpx.Request], httpx.Response]


def asked(handler: Handler, ask: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
    async def go() -> T:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
            return await ask(client)

    return asyncio.run(go())


@pytest.mark.parametrize("name", ["page_size", "page-size", "--page-size"])
def test_a_flag_is_spelled_with_dashes(name: str) -> None:
    assert flag(name) == "--page-size"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        (False, []),
        (True, ["--x"]),
        (0, ["--x", "0"]),
        (2.0, ["--x", "2.0"]),
        ("", ["--x", ""]),
        ("two words", ["--x", "two words"]),
    ],
)
def test_a_value_becomes_words(value: object, expected: list[str]) -> None:
    assert list(words("x", value)) == expected


def test_flags_come_in_the_order_of_the_settings() -> None:
    settings = {
        name: Setting(value, "user", "", "")
        for name, value in {"b": 1, "a": True, "c": None}.items()
    }
    assert emit(settings) == ["--b", "1", "--a"]


METRICS = """
# HELP sglang:cached_tokens_total Cached tokens.
# TYPE sglang:cached_tokens_total counter
sglang:cached_tokens_total{cache_source="device",model_name="a b"} 128.0
sglang:cached_tokens_total{cache_source="host",model_name="a b"} 1.6e+01
sglang:num_running_reqs 2

sglang:gen_throughput{model_name="{odd} name"} 0.5
sglang:bound{le="+Inf"} +Inf
"""


def test_metrics_are_summed_over_their_labels() -> None:
    assert parse_metrics(METRICS) == {
        "sglang:cached_tokens_total": 144.0,
        "sglang:num_running_reqs": 2.0,
        "sglang:gen_throughput": 0.5,
        "sglang:bound": float("inf"),
    }


def test_metrics_are_read_from_the_workers_own_page() -> None:
    def worker(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == "http://w:1/metrics"
        return httpx.Response(200, text="up 1")

    assert asked(worker, lambda client: metrics(client, "http://w:1")) == {"up": 1.0}


def test_a_flush_is_repeated_until_the_worker_is_idle() -> None:
    answers = iter([400, 400, 200])
    seen = []

    def worker(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path))
        return httpx.Response(next(answers))

    assert asked(worker, lambda client: flush(client, PREFILL, limit_s=20)) >= 0
    assert seen == [("POST", "/flush_cache")] * 3


def test_a_worker_that_is_never_idle_is_named_with_its_last_answer() -> None:
    def busy(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400, text="still writing")

    with pytest.raises(ClusterError, match="HTTP 400 still writing") as caught:
        asked(busy, lambda client: flush(client, PREFILL, limit_s=0.05))
    assert caught.value.where == "prefill-0"


def test_a_request_is_greedy_and_of_a_fixed_length() -> None:
    assert request_body([1, 2], 5) == {
        "input_ids": [1, 2],
        "sampling_params": {"temperature": 0, "max_new_tokens": 5, "ignore_eos": True},
    }
    salted = request_body([1], 1, cache_salt="s", logprobs=True)
    assert salted["cache_salt"] == "s"
    assert (salted["return_logprob"], salted["top_logprobs_num"]) == (True, 2)


ANSWER: dict[str, Any] = {
    "output_ids": [7, 8],
    "meta_info": {
        "prompt_tokens": 9,
        "cached_tokens_details": {"device": 4, "host": None, "storage": 2, "storage_backend": "x"},
        "output_top_logprobs": [[[-0.1, 7, None], [-0.4, 9, None]], None],
    },
}


def test_an_answer_tells_what_each_tier_gave() -> None:
    seen = asked(
        lambda request: httpx.Response(200, json=ANSWER),
        lambda client: through_gateway(client, "http://g:1", "m", request_body([1], 2)),
    )
    assert seen == Generation((7, 8), 9, device=4, host=0, storage=2, top2_gaps=seen.top2_gaps)
    assert seen.cached == 6
    assert seen.top2_gaps == pytest.approx((0.3,))


def test_the_gateway_gets_the_models_name() -> None:
    def gateway(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == "http://g:1/generate"
        assert json.loads(request.content)["model"] == "m"
        return httpx.Response(200, json=ANSWER)

    asked(gateway, lambda client: through_gateway(client, "http://g:1", "m", request_body([1], 2)))


def test_both_halves_of_a_pair_meet_in_one_room() -> None:
    bodies = {}

    def workers(request: httpx.Request) -> httpx.Response:
        bodies[f"http://{request.url.host}:{request.url.port}"] = json.loads(request.content)
        return httpx.Response(200, json=ANSWER)

    body = request_body([1], 2)
    asked(workers, lambda client: on_pair(client, Pair(PREFILL, DECODE), body))
    assert set(bodies) == {PREFILL.url, DECODE.url}
    assert bodies[str(PREFILL.url)] == bodies[str(DECODE.url)]
    half = bodies[str(PREFILL.url)]
    assert half["bootstrap_host"] == PREFILL.address
    assert half["bootstrap_port"] == PREFILL.ports["bootstrap"]
    assert 0 <= half["bootstrap_room"] < 2**63


def answers(broken: str, response: Callable[[httpx.Request], httpx.Response]) -> Handler:
    """Workers of which the one at this URL answers otherwise."""

    def handler(request: httpx.Request) -> httpx.Response:
        return (
            response(request)
            if str(request.url).startswith(broken)
            else httpx.Response(200, json=ANSWER)
        )

    return handler


def raises(error: type[httpx.RequestError]) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error("gone", request=request)

    return answer


@pytest.mark.parametrize("worker", [PREFILL, DECODE], ids=["prefill-0", "decode-0"])
@pytest.mark.parametrize(
    ("response", "said"),
    [
        (lambda request: httpx.Response(500, text="out of memory"), "HTTP 500: out of memory"),
        (raises(httpx.ReadTimeout), "did not answer in time"),
        (raises(httpx.ConnectError), "ConnectError"),
    ],
    ids=["HTTP 500", "silent", "gone"],
)
def test_the_half_of_a_pair_that_fails_is_named(
    worker: Any, response: Callable[[httpx.Request], httpx.Response], said: str
) -> None:
    with pytest.raises(ClusterError, match=said) as caught:
        asked(
            answers(worker.url, response),
            lambda client: on_pair(client, Pair(PREFILL, DECODE), request_body([1], 2)),
        )
    assert caught.value.where == worker.name


def test_the_half_that_waits_for_a_failed_one_is_given_up() -> None:
    async def workers(request: httpx.Request) -> httpx.Response:
        if str(request.url).startswith(str(PREFILL.url)):
            await decode_waits.wait()
            return httpx.Response(500, text="no memory")
        decode_waits.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        return httpx.Response(200)

    async def go() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(workers)) as client:
            with pytest.raises(ClusterError, match="no memory"):
                await on_pair(client, Pair(PREFILL, DECODE), request_body([1], 2))
            await asyncio.wait_for(given_up.wait(), timeout=20)

    decode_waits, given_up = asyncio.Event(), asyncio.Event()
    asyncio.run(go())


def test_an_answer_without_tokens_is_an_error_and_not_an_empty_answer() -> None:
    with pytest.raises(ClusterError, match="without output_ids") as caught:
        asked(
            lambda request: httpx.Response(200, json={"error": "no"}),
            lambda client: through_gateway(client, "http://g:1", "m", request_body([1], 2)),
        )
    assert caught.value.where == "gateway"
