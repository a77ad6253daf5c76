"""The controller's endpoint over real HTTP: health for everybody, the rest with the admin key."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from pdcache.cluster.endpoint import Endpoint, metrics_text
from pdcache.cluster.events import Events
from pdcache.cluster.states import ClusterState, ClusterStatus, ProcessState, ProcessStatus
from pdcache.sglang.keys import Keys

KEYS = Keys("the-admin-key", "the-gateway-key")
STATUS = ClusterStatus(
    "demo", ClusterState.DEGRADED, "http://127.0.0.1:8000",
    [
        ProcessStatus("prefill-0", "prefill", "http://127.0.0.1:1", ProcessState.HEALTHY),
        ProcessStatus("decode-0", "decode", "http://127.0.0.1:2", ProcessState.DEAD, restarts=3),
    ],
    ["decode-0 is DEAD: recovering"],
)  # fmt: skip
BEARER = {"Authorization": "Bearer the-admin-key"}


@pytest.fixture
def events(tmp_path: Path) -> Events:
    made = Events(tmp_path / "events.jsonl")
    for number in range(3):
        made.add("store", "noted", f"event {number}")
    return made


def asked(events: Events, requests: Iterable[dict[str, Any]]) -> list[httpx.Response]:
    """The answers of an endpoint to requests, one after the other."""

    async def status() -> ClusterStatus:
        return STATUS

    async def go() -> list[httpx.Response]:
        endpoint = Endpoint(status, events, KEYS)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        await endpoint.start(port)
        try:
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                return [await client.request(**{"method": "GET", **own}) for own in requests]
        finally:
            await endpoint.stop()

    return asyncio.run(go())


def test_health_tells_everybody_the_state_and_nothing_else(events: Events) -> None:
    (answer,) = asked(events, [{"url": "/health"}])
    assert (answer.status_code, answer.json()) == (200, {"state": "DEGRADED"})


@pytest.mark.parametrize(
    "path", ["/status", "/events", "/metrics", "/nowhere", "/health/../status"]
)
@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Authorization": "Bearer the-gateway-key"}, {"Authorization": "the-admin-key"},
        {"Authorization": "Bearer the-admin-key2"}, {"Authorization": "bearer"},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)  # fmt: skip
def test_without_the_admin_key_nothing_else_is_told(
    events: Events, path: str, headers: dict[str, Any]
) -> None:
    (answer,) = asked(events, [{"url": path, "headers": headers}])
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "prefill" not in answer.text


def test_with_the_admin_key_status_events_and_metrics_are_told(events: Events) -> None:
    status, all_events, new_events, metrics = asked(
        events,
        [{"url": path, "headers": BEARER}
         for path in ("/status", "/events", "/events?since=2", "/metrics")],
    )  # fmt: skip
    assert status.json() == STATUS.as_json()
    assert [event["number"] for event in all_events.json()["events"]] == [1, 2, 3]
    assert [event["number"] for event in new_events.json()["events"]] == [3]
    assert metrics.text == metrics_text(STATUS)


@pytest.mark.parametrize("since", ["x", "-1", "1.5", "", "9" * 19, "%C2%B2"])
def test_a_since_that_is_no_number_is_refused(events: Events, since: str) -> None:
    (answer,) = asked(events, [{"url": f"/events?since={since}", "headers": BEARER}])
    assert answer.status_code == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_changes_nothing(events: Events, method: str) -> None:
    (answer,) = asked(events, [{"method": method, "url": "/status", "headers": BEARER}])
    assert answer.status_code == 405


def test_metrics_count_states_reasons_and_restarts() -> None:
    lines = metrics_text(STATUS).splitlines()
    assert 'pdcache_cluster_state{cluster="demo",state="DEGRADED"} 1' in lines
    assert 'pdcache_cluster_state{cluster="demo",state="UP"} 0' in lines
    assert 'pdcache_degraded_reasons{cluster="demo"} 1' in lines
    labels = '{cluster="demo",process="decode-0",role="decode"}'
    assert f"pdcache_process_healthy{labels} 0" in lines
    assert f"pdcache_process_restarts{labels} 3" in lines
    assert all(line.startswith("#") or line.split("{")[0].isidentifier() for line in lines)


def test_two_endpoints_cannot_have_one_port(events: Events) -> None:
    async def go() -> None:
        endpoints = [Endpoint(lambda: None, events, KEYS) for _ in range(2)]
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match="in use"):
                await endpoints[0].start(port)
        await endpoints[0].stop()

    asyncio.run(go())
