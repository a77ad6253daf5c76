"""A decode's answer names the prefill that its request came with, whatever form both have."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pdcache.sglang.first_event import StatusOfFirstEvent
from pdcache.sglang.served_by import HEADER, NamesPrefill, bootstrap_address, noting


def headers(obj: Any, *, stream: bool, with_request: bool = True) -> list[tuple[bytes, bytes]]:
    """The head's headers, of an application that asks SGLang's manager for an answer."""
    heads: list[dict[str, Any]] = []

    class Manager:
        @noting
        async def generate_request(self, obj: Any, request: Any = None) -> Any:
            yield b"data: {}\n\n"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = SimpleNamespace(scope=scope) if with_request else None
        answer = Manager().generate_request
        kind = b"text/event-stream" if stream else b"application/json"
        head = {"type": "http.response.start", "headers": [(b"content-type", kind)]}
        if stream:  # as Starlette does it: the head first, then the work
            await send({**head, "status": 200})
            async for chunk in answer(obj, request):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        else:
            body = [chunk async for chunk in answer(obj, request)]
            await send({**head, "status": 200})
            await send({"type": "http.response.body", "body": body[0]})

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            heads.append(message)

    asyncio.run(NamesPrefill(StatusOfFirstEvent(app))({"type": "http"}, None, send))
    (head,) = heads
    return list(head["headers"][1:])


@pytest.mark.parametrize("stream", [False, True])
def test_the_prefill_is_named_in_the_head(stream: bool) -> None:
    obj = SimpleNamespace(bootstrap_host="10.0.0.7", bootstrap_port=8998)
    assert headers(obj, stream=stream) == [(HEADER.encode(), b"10.0.0.7:8998")]


@pytest.mark.parametrize("stream", [False, True])
def test_without_a_prefill_or_a_request_nothing_is_added(stream: bool) -> None:
    obj = SimpleNamespace(bootstrap_host="10.0.0.7", bootstrap_port=8998)
    assert headers(SimpleNamespace(), stream=stream) == []
    assert headers(obj, stream=stream, with_request=False) == []


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [
        ("h", 1, "h:1"),
        (["h", "i"], [1, 2], "h:1"),
        (["h"], 1, "h:1"),
        (None, 1, None),
        ("h", None, None),
        ([], [], None),
    ],
)
def test_the_address_of_a_request_and_of_a_batch(host: Any, port: Any, address: Any) -> None:
    assert bootstrap_address(SimpleNamespace(bootstrap_host=host, bootstrap_port=port)) == address


def test_other_scopes_pass() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    asyncio.run(NamesPrefill(app)({"type": "lifespan"}, None, None))
    assert seen == [{"type": "lifespan"}]
