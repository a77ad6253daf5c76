"""The installed smg as the front door: who may ask what, and what overload answers."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from golden.plans import MODELS, shipped
from stand_in_workers import NAME, StandInWorkers
from test_gateway_and_store_binaries import running

from pdcache.cluster.record import write_secret
from pdcache.gateway.smg import manifest
from pdcache.plan import Process, build_plan
from pdcache.sglang.keys import Keys
from pdcache.sglang.keys_plugin import KEYS_ENV
from pdcache.topology import Role
from pdcache.topology.facts import Facts
from tests.cluster_tools import free_port, port_of_this_process

KEYS = Keys("the-admin-key-of-the-test", "the-gateway-key-of-the-test")
RIGHT = {"Authorization": f"Bearer {KEYS.gateway}"}
ADMIN = {"Authorization": f"Bearer {KEYS.admin}"}
BODY: dict[str, Any] = {"model": NAME, "text": "a", "sampling_params": {"max_new_tokens": 1}}


@pytest.fixture
def workers() -> Iterator[StandInWorkers]:
    with StandInWorkers((free_port(), free_port())) as stand_in:
        yield stand_in


@pytest.fixture
def gateway(tmp_path: Path, workers: StandInWorkers) -> Iterator[Process]:
    """The gateway of a plan with both workers behind it; two requests at a time, one waits."""
    port = next(port for port in range(20900, 21000) if port_of_this_process(port))
    topology = shipped(
        "full_offload", f"gateway.port={port}", "gateway.max_concurrent_requests=2",
        "gateway.queue_size=1", "gateway.queue_timeout_s=1",
    )  # fmt: skip
    facts = Facts(
        home=tmp_path, temp=tmp_path, python=sys.executable, models=MODELS,
        port_free=port_of_this_process,
    )  # fmt: skip
    plan = build_plan(topology, facts)
    process = plan.process("gateway")
    write_secret(Path(process.env[KEYS_ENV]), KEYS.text())
    rows = [
        ("prefill", Role.PREFILL, f"http://127.0.0.1:{workers.ports[0]}", free_port()),
        ("decode", Role.DECODE, f"http://127.0.0.1:{workers.ports[1]}", None),
    ]
    Path(plan.manifest).parent.mkdir(parents=True, exist_ok=True)
    Path(plan.manifest).write_text(manifest(rows))
    with running(replace(process, url=plan.endpoint), tmp_path):
        yield process


def post(gateway: Process, headers: dict[str, str], **more: Any) -> httpx.Response:
    return httpx.post(f"{gateway.url}/generate", json=BODY | more, headers=headers, timeout=30)


def test_the_gateway_key_opens_generation_and_the_admin_key_the_rest(gateway: Process) -> None:
    assert post(gateway, RIGHT).status_code == 200
    for headers in ({}, ADMIN, {"Authorization": "Bearer another"}):
        assert post(gateway, headers).status_code == 401
    for headers, status in (({}, 401), (RIGHT, 401), (ADMIN, 200)):
        assert httpx.get(f"{gateway.url}/workers", headers=headers).status_code == status


def test_bootstrap_fields_of_a_client_are_overwritten(
    gateway: Process, workers: StandInWorkers
) -> None:
    own = {"bootstrap_host": "6.6.6.6", "bootstrap_port": 666, "bootstrap_room": 1}
    assert post(gateway, RIGHT, **own).status_code == 200
    bodies = [body for body, _ in workers.seen]
    assert len(bodies) == 2
    for body in bodies:
        assert body["bootstrap_host"] == "127.0.0.1"
        assert body["bootstrap_port"] != 666
        assert body["bootstrap_room"] != 1
    assert bodies[0]["bootstrap_room"] == bodies[1]["bootstrap_room"]


def test_overload_is_answered_with_a_time_to_come_back(
    gateway: Process, workers: StandInWorkers
) -> None:
    workers.seconds = 3.0

    async def at_once(count: int) -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=30, trust_env=False, headers=RIGHT) as client:
            return await asyncio.gather(
                *(client.post(f"{gateway.url}/generate", json=BODY) for _ in range(count))
            )

    answers = asyncio.run(at_once(6))
    codes = Counter(answer.status_code for answer in answers)
    assert codes == {200: 2, 503: 1, 429: 3}
    for answer in answers:
        if answer.status_code != 200:
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.json()["error"]["message"]
