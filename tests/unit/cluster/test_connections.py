"""Connections to many servers are kept, one pool for each."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import httpx
import pytest

from pdcache.cluster import connections
from pdcache.cluster.connections import PoolPerServer

SERVERS, ROUNDS = 30, 3
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def test_each_of_many_servers_keeps_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_S", 600.0)
    opened, answered = Counter[int](), Counter[int]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        opened[port] += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                answered[port] += 1
                writer.write(ANSWER)
        writer.close()

    async def go() -> None:
        servers = [await asyncio.start_server(serve, "127.0.0.1", 0) for _ in range(SERVERS)]
        ports = [server.sockets[0].getsockname()[1] for server in servers]
        async with httpx.AsyncClient(transport=PoolPerServer(), trust_env=False) as client:
            for _ in range(ROUNDS):
                for port in ports:
                    assert (await client.get(f"http://127.0.0.1:{port}/")).status_code == 200
        for server in servers:
            server.close()

    asyncio.run(go())
    assert sorted(opened.values()) == [1] * SERVERS
    assert sorted(answered.values()) == [ROUNDS] * SERVERS


def test_a_server_that_is_not_there_is_an_error_of_httpx() -> None:
    async def go() -> None:
        async with httpx.AsyncClient(transport=PoolPerServer(), trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("http://127.0.0.1:1/")

    asyncio.run(go())
