"""A stream that begins with a failure is answered with the failure's status.

SGLang 0.5.23 answers 200 as soon as a stream is asked for, and tells a failure before the first
token as an event of it. A gateway tries again what was answered with an error status, and passes
an event on.
"""

from __future__ import annotations

import json
from typing import Any


class StatusOfFirstEvent:
    """ASGI middleware: the head of an event stream waits for its first event."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            send = _Answer(send).send
        await self._app(scope, receive, send)


class _Answer:
    def __init__(self, send: Any) -> None:
        self._send = send
        self._head: Any = None
        self._failed = False

    async def send(self, message: Any) -> None:
        if self._failed:
            return
        if message["type"] == "http.response.start" and _is_stream(message):
            self._head = message
            return
        if self._head is None:
            await self._send(message)
            return
        head = self._head
        if message["type"] == "http.response.body":
            if not message.get("body") and message.get("more_body"):
                return
            status = failure_status(message.get("body", b""))
            if status is not None:
                self._failed = True
                body = _event(message["body"])
                headers = [(b"content-type", b"application/json")]
                await self._send({**head, "status": status, "headers": headers})
                await self._send({"type": "http.response.body", "body": body})
                return
        self._head = None
        await self._send(head)
        await self._send(message)


def failure_status(chunk: bytes) -> int | None:
    """The status of 500 and above that a stream's first chunk tells, or None."""
    try:
        event = json.loads(_event(chunk))
    except ValueError:
        return None
    if not isinstance(event, dict):
        return None
    error, meta = event.get("error"), event.get("meta_info")
    reason = meta.get("finish_reason") if isinstance(meta, dict) else None
    status: object = None
    if isinstance(error, dict):
        status = error.get("code")
    elif isinstance(reason, dict) and reason.get("type") == "abort":
        status = reason.get("status_code")
    return status if isinstance(status, int) and 500 <= status < 600 else None


def _event(chunk: bytes) -> bytes:
    return chunk.removeprefix(b"data:").partition(b"\n")[0].strip()


def _is_stream(message: Any) -> bool:
    kinds = [value for name, value in message.get("headers", ()) if name == b"content-type"]
    return message["status"] == 200 and any(k.startswith(b"text/event-stream") for k in kinds)
