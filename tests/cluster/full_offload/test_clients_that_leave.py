"""A client that leaves is a request less on both halves, whenever it leaves."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from pdcache.sglang.generate import request_body
from pdcache.sglang.idle import load
from pdcache.topology import Role
from tests.dialogues import Running

LONG = 3000
"""Tokens of an answer that takes far longer than the test."""

FREED_WITHIN_S = 10.0


@pytest.mark.parametrize("events", [0, 1, 40])
def test_both_halves_are_freed_when_a_client_leaves(running: Running, events: int) -> None:
    """After so many events of a stream; 0: before the first one."""
    asyncio.run(_leave_after(running, events))


async def _leave_after(running: Running, events: int) -> None:
    body = request_body(list(range(20, 320)), LONG) | {"stream": True}
    body["model"] = running.plan.formats["prefill"].served_name
    workers = [*running.plan.role(Role.PREFILL), *running.plan.role(Role.DECODE)]
    async with running.client(60.0) as client:
        asked = asyncio.create_task(_stream(running.plan.endpoint, body, events))
        if events:
            await asked
        else:
            while not any([(await load(client, own)).busy for own in workers]):
                assert not asked.done(), "the request was over before a worker had it"
            asked.cancel()
        deadline = asyncio.get_running_loop().time() + FREED_WITHIN_S
        while any(busy := {own.name: (await load(client, own)).busy for own in workers}.values()):
            assert asyncio.get_running_loop().time() < deadline, f"still held: {[*busy]}"
            await asyncio.sleep(0.1)


async def _stream(url: str, body: dict[str, object], events: int) -> None:
    """Read so many events of an answer, and hang up."""
    async with (
        httpx.AsyncClient(timeout=60, trust_env=False) as client,
        client.stream("POST", f"{url}/generate", json=body) as response,
    ):
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                assert "[DONE]" not in line, "the answer was over before the client left"
                events -= 1
                if events == 0:
                    return
        if events > 0:
            raise AssertionError("the stream ended by itself")
