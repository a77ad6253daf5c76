"""Asking a master over HTTP which keys it holds, and whether it is well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx
import pytest

from pdcache.errors import ClusterError
from pdcache.store.mooncake_http import QUERY_BATCH, healthy, present, wait_present

URL = "http://master:20001"
T = TypeVar("T")
Handler = Callable[[httpx.Request], httpx.Response]


def asked(handler: Handler, ask: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
    """What `ask` returns when `handler` is the master."""

    async def go() -> T:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
            return await ask(client)

    return asyncio.run(go())


class Holding:
    """A master that holds some keys and remembers how many were asked for at a time."""

    def __init__(self, *keys: str, appear_after: int = 0) -> None:
        self.keys = set(keys)
        self.batches: list[int] = []
        self.appear_after = appear_after

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/batch_query_keys"
        keys = request.url.params["keys"].split(",")
        self.batches.append(len(keys))
        known = self.keys if len(self.batches) > self.appear_after else set()
        return httpx.Response(
            200, json={"data": {key: {"ok": key in known} for key in keys}, "success": True}
        )


def refused(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def test_the_keys_that_are_held_are_found() -> None:
    assert asked(Holding("a", "c"), lambda client: present(client, URL, ["a", "b", "c"])) == {
        "a",
        "c",
    }


def test_many_keys_are_asked_for_in_batches() -> None:
    keys = [f"key{i}" for i in range(QUERY_BATCH * 2 + 1)]
    master = Holding(*keys)
    assert asked(master, lambda client: present(client, URL, keys)) == set(keys)
    assert master.batches == [QUERY_BATCH, QUERY_BATCH, 1]


def test_no_key_needs_no_question() -> None:
    assert asked(refused, lambda client: present(client, URL, [])) == set()


@pytest.mark.parametrize(
    "handler",
    [refused, lambda request: httpx.Response(500), lambda request: httpx.Response(200, text="<p>")],
    ids=["refused", "HTTP 500", "no JSON"],
)
def test_a_master_that_does_not_answer_is_named(handler: Handler) -> None:
    with pytest.raises(ClusterError, match="did not answer a key query") as caught:
        asked(handler, lambda client: present(client, URL, ["a"]))
    assert caught.value.where == URL


def test_waiting_ends_when_all_keys_are_there() -> None:
    master = Holding("a", "b", appear_after=1)
    wait = asked(master, lambda client: wait_present(client, URL, ["a", "b"], limit_s=20))
    assert wait == set()
    assert master.batches == [2, 2]


def test_waiting_ends_at_the_limit_with_the_keys_that_miss() -> None:
    wait = asked(Holding("a"), lambda client: wait_present(client, URL, ["a", "b"], limit_s=0))
    assert wait == {"b"}


def test_a_healthy_master_has_nothing_to_say() -> None:
    def master(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if request.url.path == "/health" else 404)

    assert asked(master, lambda client: healthy(client, URL)) is None


def test_a_sick_master_says_what_is_wrong() -> None:
    sick = asked(lambda request: httpx.Response(503), lambda client: healthy(client, URL))
    assert sick == f"{URL}/health: 503"
    assert asked(refused, lambda client: healthy(client, URL)) == f"{URL}/health: ConnectError"
