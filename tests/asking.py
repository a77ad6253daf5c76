"""Asking a store that is a function from request to response."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx

T = TypeVar("T")
Handler = Callable[[httpx.Request], httpx.Response]


def asked(handler: Handler, ask: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
    """What `ask` returns when `handler` is the store."""

    async def go() -> T:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
            return await ask(client)

    return asyncio.run(go())


def refused(request: httpx.Request) -> httpx.Response:
    """A store that nobody listens for."""
    raise httpx.ConnectError("refused", request=request)
