"""An answer names the prefill worker that computed its prompt, which gateways do not tell.

A decode server knows it from the bootstrap address that the gateway put into the request; smg
1.13.0 passes headers of decode's answer on to the client.
"""

from __future__ import annotations

import functools
from typing import Any

HEADER = "x-pdcache-prefill"
"""Of an answer: ``HOST:PORT``, where decode met the prefill (its bootstrap server)."""

_NOTE = "pdcache.prefill"


class NamesPrefill:
    """ASGI middleware: adds `HEADER` once the application has noted its value.

    A stream's head must come after its request was taken up: put it around
    `pdcache.sglang.first_event.StatusOfFirstEvent`.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        note: list[str] = []

        async def named(message: Any) -> None:
            if message["type"] == "http.response.start" and note:
                header = (HEADER.encode(), note[0].encode("latin-1", "replace"))
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        await self._app({**scope, _NOTE: note}, receive, named)


def noting(method: Any) -> Any:
    """SGLang's ``TokenizerManager.generate_request`` that notes where the KV comes from.

    (sglang 0.5.23 ``managers/tokenizer_manager.py``; every endpoint calls it with the object that
    has the bootstrap fields, and most with the HTTP request.)
    """

    @functools.wraps(method)
    def generate_request(self: Any, obj: Any, request: Any = None) -> Any:
        address = bootstrap_address(obj)
        if address and request is not None:
            note = request.scope.get(_NOTE)
            if note is not None:
                note[:] = [address]
        return method(self, obj, request)

    return generate_request


def bootstrap_address(obj: Any) -> str | None:
    """``HOST:PORT`` of a request, of a batch the first one's; None without such fields."""
    host, port = (_first(getattr(obj, f"bootstrap_{part}", None)) for part in ("host", "port"))
    return f"{host}:{port}" if host and port else None


def _first(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list) else value
