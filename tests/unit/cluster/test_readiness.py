"""Whether a process is ready, and what the gateway knows of the workers."""

from __future__ import annotations

import json
import socket
from dataclasses import replace

import httpx
from asking import asked, refused
from golden.plans import golden_plan

from pdcache.cluster.manifest import listed, manifest_text
from pdcache.cluster.probe import ready
from pdcache.cluster.states import ClusterState, ClusterStatus, ProcessState, ProcessStatus
from pdcache.sglang.keys_plugin import PLACEHOLDER

PLAN = golden_plan("full_offload")

SERVER = PLAN.process("prefill-0")
READY = f"{SERVER.url}{SERVER.ready_path}"


def test_a_server_is_ready_when_its_ready_path_answers_200_and_it_asks_for_its_key() -> None:
    def healthy(request: httpx.Request) -> httpx.Response:
        everybodys = request.headers.get("Authorization") == f"Bearer {PLACEHOLDER}"
        return httpx.Response(401 if everybodys else 200)

    assert asked(healthy, lambda client: ready(SERVER, client)) is None


def test_a_server_of_another_cluster_that_has_the_port_is_not_ready() -> None:
    def others(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if str(request.url) == READY else 401)

    missing = asked(others, lambda client: ready(SERVER, client))
    assert missing is not None
    assert "another server listens" in missing


def test_a_server_that_takes_the_key_of_its_command_line_is_not_ready() -> None:
    missing = asked(lambda request: httpx.Response(200), lambda client: ready(SERVER, client))
    assert missing is not None
    assert "does not ask for the cluster's admin key" in missing


def test_a_server_that_is_not_ready_says_what_is_missing() -> None:
    starting = asked(lambda request: httpx.Response(503), lambda client: ready(SERVER, client))
    assert starting == f"{READY}: HTTP 503"
    assert asked(refused, lambda client: ready(SERVER, client)) == f"{READY}: ConnectError"


def test_a_holder_is_ready_when_its_port_accepts() -> None:
    holder = PLAN.process("store-holder-0")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        own = replace(holder, health_port=port)
        assert asked(refused, lambda client: ready(own, client)) is None
    missing = asked(refused, lambda client: ready(own, client))
    assert missing is not None
    assert missing.startswith(f"127.0.0.1:{port}: ")


def test_only_healthy_workers_are_in_the_manifest_under_their_incarnation() -> None:
    statuses = {
        process.name: ProcessStatus(
            process.name, process.role.value, process.url, ProcessState.HEALTHY, incarnation=1
        )
        for process in PLAN.processes
    }
    statuses["prefill-1"].state = ProcessState.STARTING
    statuses["decode-0"].incarnation = 3
    workers = json.loads(manifest_text(PLAN, statuses))["workers"]
    assert [worker["id"] for worker in workers] == ["prefill-0-1", "decode-0-3"]
    assert "bootstrap_port" in workers[0]
    assert "bootstrap_port" not in workers[1]


def test_a_gateway_that_does_not_answer_says_nothing_about_its_workers() -> None:
    listing = {
        "workers": [
            {"url": "http://a", "is_healthy": True},
            {"url": "http://b", "is_healthy": False},
            {"url": "http://c"},
        ]
    }
    gateway = PLAN.process("gateway")
    found = asked(
        lambda request: httpx.Response(200, json=listing),
        lambda client: listed(gateway, client),
    )
    assert found == {"http://a": True, "http://b": False, "http://c": True}
    assert asked(refused, lambda client: listed(gateway, client)) is None


def test_a_status_as_json_has_the_keys_that_programs_rely_on() -> None:
    status = ClusterStatus(
        "demo", ClusterState.UP, "http://127.0.0.1:8000",
        [ProcessStatus("prefill-0", "prefill", "http://127.0.0.1:21000", ProcessState.HEALTHY)],
        ["a reason"], failed="text",
    )  # fmt: skip
    data = json.loads(json.dumps(status.as_json()))
    assert data.keys() >= {"schema", "name", "state", "endpoint", "workers", "reasons"}
    assert data["state"] == "UP"
    assert data["workers"][0].keys() >= {
        "name", "role", "state", "url", "pid", "incarnation", "restarts",
    }  # fmt: skip
