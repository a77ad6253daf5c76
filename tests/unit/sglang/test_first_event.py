"""A stream's head waits for its first event, and is that event's failure if it is one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pdcache.sglang.first_event import StatusOfFirstEvent, failure_status

HEAD = [(b"content-type", b"text/event-stream; charset=utf-8")]
ABORT = {"text": "", "meta_info": {"finish_reason": {
    "type": "abort", "message": "Decode transfer failed", "status_code": 500}}}  # fmt: skip
ERROR = {"error": {"message": "no prefill", "code": 503}}
TOKEN = {"output_ids": [5], "meta_info": {"finish_reason": None}}


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def sent(chunks: list[bytes], *, status: int = 200, headers: Any = HEAD) -> list[dict[str, Any]]:
    """What a client is sent when an application answers with chunks."""
    messages: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    asyncio.run(StatusOfFirstEvent(app)({"type": "http"}, None, send))
    return messages


@pytest.mark.parametrize(("first", "status"), [(ABORT, 500), (ERROR, 503)])
def test_a_stream_that_begins_with_a_failure_has_its_status(first: object, status: int) -> None:
    head, *bodies = sent([event(first), b"data: [DONE]\n\n"])
    assert head["status"] == status
    assert (b"content-type", b"application/json") in head["headers"]
    assert [json.loads(body["body"]) for body in bodies] == [first]
    assert not bodies[-1].get("more_body")


def test_a_failure_after_the_first_token_stays_an_event() -> None:
    chunks = [event(TOKEN), event(ABORT)]
    messages = sent(chunks)
    assert messages[0]["status"] == 200
    assert [message["body"] for message in messages[1:]] == [*chunks, b""]


@pytest.mark.parametrize(
    "first",
    [
        b": ping\n\n", b"data: [DONE]\n\n", b"data: [1]\n\n", b"data: {", event(TOKEN),
        event({"error": "text"}), event({"error": {"code": 400}}), event({"meta_info": None}),
        event({"meta_info": {"finish_reason": {"type": "abort", "status_code": None}}}),
        event({"meta_info": {"finish_reason": {"type": "stop", "status_code": 500}}}),
    ],
)  # fmt: skip
def test_what_tells_no_failure_of_the_server_is_passed_on(first: bytes) -> None:
    messages = sent([first])
    assert messages[0]["status"] == 200
    assert messages[1]["body"] == first


def test_an_empty_chunk_is_waited_over() -> None:
    assert sent([b"", event(ABORT)])[0]["status"] == 500


def test_a_stream_without_any_event_is_answered() -> None:
    assert [message["type"] for message in sent([])] == [
        "http.response.start", "http.response.body",
    ]  # fmt: skip


@given(some.binary(max_size=40), some.sampled_from([200, 404, 503]))
def test_an_answer_that_is_no_stream_is_passed_on(body: bytes, status: int) -> None:
    headers = [(b"content-type", b"application/json")]
    messages = sent([body], status=status, headers=headers)
    assert messages[0] == {"type": "http.response.start", "status": status, "headers": headers}
    assert messages[1]["body"] == body


@given(some.binary(max_size=60))
def test_any_bytes_have_a_status_of_500_and_above_or_none(chunk: bytes) -> None:
    found = failure_status(b"data: " + chunk)
    assert found is None or 500 <= found < 600
