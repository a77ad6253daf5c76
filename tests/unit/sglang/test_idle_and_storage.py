"""What a worker still has to do, and its L3 taken away and given while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from asking import Handler, asked, refused
from golden.plans import golden_plan

from pdcache.errors import ClusterError
from pdcache.sglang import storage
from pdcache.sglang.idle import Load, load
from pdcache.sglang.storage import PATH, Settings, attach, detach, shown

WORKER = golden_plan("full_offload").process("prefill-0")
URL = f"{WORKER.url}{PATH}"
SETTINGS = Settings("mooncake", '{"a":1}', "timeout", "write_through")
BUSY = "Cannot detach: the scheduler is NOT IDLE (running=1)"
ROW = {
    "timestamp": 5.0, "num_running_reqs": 1, "num_waiting_reqs": 2, "num_total_tokens": 900,
    "disaggregation": {"mode": "prefill", "prefill_inflight_queue_reqs": 3,
                       "kv_transfer_latency_ms": 7},
    "queues": {"waiting": 2, "grammar": 1, "retracted": 1, "paused": True},
}  # fmt: skip


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "POLL_S", 0.0)


def loads(rows: Any) -> Load:
    def answer(request: httpx.Request) -> httpx.Response:
        assert str(request.url).startswith(f"{WORKER.url}/v1/loads?include=")
        return httpx.Response(200, json={"loads": rows})

    return asked(answer, lambda client: load(client, WORKER))


def error_of(handler: Handler, ask: Callable[[httpx.AsyncClient], Any]) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        asked(handler, ask)
    assert caught.value.where == "prefill-0"
    return caught.value


def script(*answers: httpx.Response) -> tuple[Handler, list[httpx.Request]]:
    """A worker that gives these answers, the last one for ever, and what it was asked."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        given = answers[min(len(seen), len(answers)) - 1]
        return httpx.Response(given.status_code, content=given.content)

    return answer, seen


OK = httpx.Response(200, json={"success": True})
NOT_IDLE = httpx.Response(400, text=BUSY)


# --- idle


def test_a_worker_without_requests_is_not_busy() -> None:
    assert loads([{"num_running_reqs": 0, "num_waiting_reqs": 0}]).busy is None
    assert loads([]) == Load(running=0, waiting=0, queued={}, at_s=0.0)


def test_a_busy_worker_says_what_it_has_and_only_queues_count() -> None:
    seen = loads([ROW])
    assert seen.busy == "1 running, 2 waiting, 3 prefill_inflight_queue_reqs, 1 grammar"
    assert seen.at_s == 5.0


def test_requests_are_summed_over_ranks_and_the_slowest_rank_counts() -> None:
    seen = loads([ROW, {**ROW, "timestamp": 2.0}])
    assert (seen.running, seen.waiting) == (2, 4)
    assert seen.queued["prefill_inflight_queue_reqs"] == 6
    assert seen.at_s == 2.0


def test_each_rank_tells_what_it_has_and_what_it_has_done() -> None:
    row = {**ROW, "num_total_tokens": 900, "max_total_num_tokens": 1000,
           "total_prefill_uncached_tokens": 70, "num_waiting_uncached_tokens": 30}  # fmt: skip
    first, second = loads([row, {"timestamp": 2.0}]).ranks
    assert (first.at_s, first.prefills, first.running, first.waiting) == (5.0, True, 1, 2)
    assert first.handed["prefill_inflight_queue_reqs"] == 3
    assert (first.tokens, first.room_tokens) == (900, 1000)
    assert (first.computed_tokens, first.uncomputed_tokens) == (70, 30)
    assert (second.at_s, second.busy, second.prefills) == (2.0, False, False)


def test_a_queue_alone_makes_a_worker_busy() -> None:
    row = {"disaggregation": {"decode_prealloc_queue_reqs": 1}, "queues": None}
    assert loads([row]).busy == "1 decode_prealloc_queue_reqs"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(503), "503"),
        (httpx.Response(200, text="<html>"), "does not tell its load"),
        (httpx.Response(200, json={}), "does not tell its load: 'loads'"),
        (httpx.Response(200, json=[]), "does not tell its load"),
    ],
)
def test_a_worker_that_does_not_tell_its_load_is_named(answer: httpx.Response, said: str) -> None:
    handler, _ = script(answer)
    assert said in str(error_of(handler, lambda client: load(client, WORKER)))
    assert "refused" in str(error_of(refused, lambda client: load(client, WORKER)))


# --- storage


def test_an_attach_sends_backend_options_and_both_policies() -> None:
    handler, seen = script(OK)
    asked(handler, lambda client: attach(client, WORKER, SETTINGS, limit_s=1))
    (request,) = seen
    assert (request.method, str(request.url)) == ("PUT", URL)
    assert json.loads(request.content) == {
        "hicache_storage_backend": "mooncake",
        "hicache_storage_backend_extra_config_json": '{"a":1}',
        "hicache_storage_prefetch_policy": "timeout",
        "hicache_write_policy": "write_through",
    }


def test_a_policy_that_is_not_set_is_left_to_sglang() -> None:
    handler, seen = script(OK)
    plain = Settings("file", "{}", None, None)
    asked(handler, lambda client: attach(client, WORKER, plain, limit_s=1))
    assert json.loads(seen[0].content).keys() == {
        "hicache_storage_backend", "hicache_storage_backend_extra_config_json",
    }  # fmt: skip


def test_a_detach_is_tried_again_while_the_worker_is_not_idle() -> None:
    handler, seen = script(NOT_IDLE, NOT_IDLE, OK)
    asked(handler, lambda client: detach(client, WORKER, limit_s=5))
    assert [(request.method, str(request.url)) for request in seen] == [("DELETE", URL)] * 3


def test_an_attach_is_tried_again_while_the_worker_is_not_idle() -> None:
    handler, seen = script(NOT_IDLE, OK)
    asked(handler, lambda client: attach(client, WORKER, SETTINGS, limit_s=5))
    assert [request.method for request in seen] == ["PUT", "PUT"]
    assert seen[0].content == seen[1].content


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(400, text="unknown\n  backend"), "DELETE /hicache/storage-backend: HTTP 40"
                                                         "0 unknown backend"),
        (httpx.Response(401, text="Unauthorized"), "HTTP 401 Unauthorized"),
        (httpx.Response(500, text="x" * 1000), "HTTP 500 " + "x" * 300),
    ],
)  # fmt: skip
def test_any_other_refusal_is_final_and_names_the_worker(answer: httpx.Response, said: str) -> None:
    handler, seen = script(answer)
    error = error_of(handler, lambda client: detach(client, WORKER, limit_s=5))
    assert said in str(error)
    assert len(str(error)) < 400
    assert len(seen) == 1


def test_a_worker_that_stays_busy_is_given_up_at_the_limit() -> None:
    handler, seen = script(NOT_IDLE)
    begin = time.monotonic()
    error = error_of(handler, lambda client: detach(client, WORKER, limit_s=0.05))
    assert "NOT IDLE (running=1)" in str(error)
    assert 0.05 <= time.monotonic() - begin < 5
    assert len(seen) > 1


def test_a_worker_that_does_not_answer_is_named_with_what_was_asked() -> None:
    error = error_of(refused, lambda client: detach(client, WORKER, limit_s=1))
    assert str(error) == "prefill-0: DELETE /hicache/storage-backend failed: refused."


def test_a_request_may_take_what_is_left_of_the_limit_and_no_more() -> None:
    limits: list[float] = []

    def slow(request: httpx.Request) -> httpx.Response:
        limits.append(request.extensions["timeout"]["read"])
        raise httpx.ReadTimeout("timed out", request=request)

    error = error_of(slow, lambda client: attach(client, WORKER, SETTINGS, limit_s=30))
    assert "PUT /hicache/storage-backend failed: timed out." in str(error)
    assert 29 < limits[0] <= 30


def test_what_a_worker_shows_is_read_as_it_is() -> None:
    handler, seen = script(httpx.Response(200, json={"hicache_storage_backend": None}))
    assert asked(handler, lambda client: shown(client, WORKER)) == {"hicache_storage_backend": None}
    assert [(request.method, str(request.url)) for request in seen] == [("GET", URL)]


def test_a_worker_that_shows_nothing_is_named() -> None:
    handler, _ = script(httpx.Response(200, text="<html>"))
    error_of(handler, lambda client: shown(client, WORKER))
    error_of(refused, lambda client: shown(client, WORKER))
