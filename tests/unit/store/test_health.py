"""Whether a store serves, as it is asked before any worker is pointed at it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest
from asking import Handler, asked, refused

from pdcache.store.backend import StoreAccess
from pdcache.store.health import healthy

URL, OTHER = "http://a:20001/health", "http://b:20003/health"
LEADER = {"service_ready": True, "role": "leader", "ha_state": "serving"}
STANDBY = {"service_ready": False, "role": "standby", "ha_state": "watching"}


def store(*health_urls: str, tcp: tuple[str, ...] = ()) -> StoreAccess:
    return StoreAccess("mooncake", "mooncake", health_urls=health_urls, tcp=tcp)


def ill(handler: Handler, access: StoreAccess) -> str | None:
    return asked(handler, lambda client: healthy(client, access))


def masters(**answers: Callable[[], httpx.Response]) -> Handler:
    """Masters by their host."""
    return lambda request: answers[request.url.host]()


@pytest.mark.parametrize(
    "answer", [{"text": "OK"}, {"text": ""}, {"json": LEADER}, {"json": ["anything"]}], ids=str
)
def test_a_healthy_store_has_nothing_to_say(answer: dict[str, object]) -> None:
    def master(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if str(request.url) == URL else 404, **answer)  # type: ignore[arg-type]

    assert ill(master, store(URL)) is None


def test_a_sick_store_says_what_is_wrong() -> None:
    assert ill(lambda request: httpx.Response(503), store(URL)) == f"{URL}: HTTP 503"
    assert ill(refused, store(URL)) == f"{URL}: ConnectError"


def test_a_standby_answers_200_and_does_not_serve() -> None:
    said = ill(lambda request: httpx.Response(200, json=STANDBY), store(URL))
    assert said == f"{URL}: standby is watching"


@pytest.mark.parametrize("leads", ["a", "b"])
def test_any_leader_among_several_masters_is_enough(leads: str) -> None:
    (other,) = {"a", "b"} - {leads}
    for lame in (
        lambda: httpx.Response(200, json=STANDBY),
        lambda: httpx.Response(503),
    ):
        answers = {leads: lambda: httpx.Response(200, json=LEADER), other: lame}
        assert ill(masters(**answers), store(URL, OTHER)) is None


def test_masters_of_which_none_leads_are_all_named() -> None:
    answers = {
        "a": lambda: httpx.Response(200, json=STANDBY),
        "b": lambda: httpx.Response(500),
    }
    said = ill(masters(**answers), store(URL, OTHER))
    assert said == f"{URL}: standby is watching; {OTHER}: HTTP 500"


def test_a_store_with_nothing_to_ask_is_taken_as_it_is() -> None:
    assert ill(refused, store()) is None


def tcp_health(*hosts: str, listening: bool = True) -> str | None:
    """The health of addresses on a port of this machine."""

    async def go() -> str | None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        if not listening:
            server.close()
            await server.wait_closed()
        async with server, httpx.AsyncClient() as client:
            return await healthy(client, store(tcp=tuple(f"{host}:{port}" for host in hosts)))

    return asyncio.run(go())


def test_an_address_that_accepts_is_well() -> None:
    assert tcp_health("127.0.0.1", "localhost") is None


def test_an_address_that_refuses_is_named() -> None:
    said = tcp_health("127.0.0.1", listening=False)
    assert said is not None
    assert said.startswith("127.0.0.1:")


def test_a_refused_address_counts_however_well_http_is() -> None:
    access = store(URL, tcp=("127.0.0.1:1",))
    said = ill(lambda request: httpx.Response(200), access)
    assert said is not None
    assert said.startswith("127.0.0.1:1: ")
