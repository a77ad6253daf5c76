"""Odd HTTP at the gateway and at the controller: refused with a reason, and both live on."""

from __future__ import annotations

import json
import random
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.cluster_tools import Shell
from tests.dialogues import Running

SEED = 4
PATHS = (
    "/generate", "/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/status",
    "/events", "/metrics", "/workers", "/", "/..%2f..%2fetc/passwd", "/events?since=-1",
    "/events?since=99999999999999999999", "/\u2028", "/%00", "/" + "a" * 4000,
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE")
BODIES: tuple[bytes, ...] = (
    b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe\x00", b"[" * 300 + b"]" * 300,
    b'{"model": 1}', b'{"model": "tiny-random"}',
    b'{"model": "tiny-random", "messages": 3, "max_tokens": -1}',
    b'{"model": "tiny-random", "input_ids": [-1], "sampling_params": {"max_new_tokens": 1}}',
    b'{"model": "tiny-random", "input_ids": [99999999], "sampling_params": {"max_new_tokens": 1}}',
    b'{"model": "tiny-random", "input_ids": [], "sampling_params": {"max_new_tokens": 1}}',
    b'{"model": "tiny-random", "input_ids": "x", "sampling_params": []}',
    b'{"model": "tiny-random", "text": "a", "sampling_params": {"temperature": -5}}',
    b'{"model": "tiny-random", "prompt": {"a": 1}, "bootstrap_room": "x"}',
    b'{"model": "no-such-model", "messages": [{"role": "user", "content": "a"}]}',
)  # fmt: skip
RAW = (
    b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET /health HTTP/9.9\r\nHost: a\r\n\r\n",
    b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
    b"POST /generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 3000 + b"\r\n",
)  # fmt: skip


@pytest.fixture
def targets(shell: Shell, full_offload: dict[str, Any], running: Running) -> dict[str, str]:
    """The two HTTP endpoints of a cluster that are not SGLang's."""
    status = shell.json("status", full_offload["name"])
    return {"gateway": running.plan.endpoint, "controller": status["controller"]}


def test_every_odd_request_is_answered_or_refused_with_a_reason(
    shell: Shell, full_offload: dict[str, Any], targets: dict[str, str], running: Running
) -> None:
    before = pids(shell, full_offload["name"])
    source = random.Random(SEED)
    unexplained = []
    with httpx.Client(timeout=30, trust_env=False) as client:
        for target, url in targets.items():
            for number in range(160):
                method, path = source.choice(METHODS), source.choice(PATHS)
                body = source.choice(BODIES)
                headers = source.choice([
                    {}, {"content-type": "application/json"}, {"content-type": "text/plain"},
                    {b"authorization": b"Bearer \xff"},
                    {"authorization": f"Bearer {running.keys.admin}"} if target == "controller"
                    else {"x-session-id": "x" * 5000},
                ])  # fmt: skip
                try:
                    answer = client.request(method, url + path, content=body, headers=headers)
                except httpx.RemoteProtocolError:
                    continue  # it closed the connection
                if answer.status_code >= 500 and not answer.text.strip() and method != "HEAD":
                    unexplained.append((target, number, method, path[:60], answer.status_code))
    assert unexplained == []
    for url in targets.values():
        for text in RAW:
            send_raw(url, text)
    assert pids(shell, full_offload["name"]) == before
    assert httpx.get(f"{targets['controller']}/health").json()["state"] == "UP"
    assert shell.json("status", full_offload["name"])["state"] == "UP"


def test_the_controller_tells_only_its_health_without_the_key(
    targets: dict[str, str], running: Running
) -> None:
    url, key = targets["controller"], {"Authorization": f"Bearer {running.keys.admin}"}
    assert set(httpx.get(f"{url}/health").json()) == {"state"}
    for path in ("/status", "/events", "/metrics", "/nothing"):
        refused = httpx.get(url + path)
        assert (refused.status_code, "error" in refused.json()) == (401, True)
    assert httpx.get(f"{url}/status", headers=key).json()["state"] == "UP"
    events = httpx.get(f"{url}/events?since=1", headers=key).json()["events"]
    assert events[0]["number"] == 2
    assert httpx.get(f"{url}/events?since=x", headers=key).status_code == 400
    text = httpx.get(f"{url}/metrics", headers=key).text
    assert 'pdcache_process_healthy{cluster="full-offload",process="prefill-0"' in text


def pids(shell: Shell, name: str) -> dict[str, int]:
    """Every process of the cluster by its name."""
    return {own["name"]: own["pid"] for own in shell.json("status", name)["workers"]}


def send_raw(url: str, text: bytes) -> None:
    """Bytes that are no HTTP; whatever comes back is read."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
        connection.sendall(text)
        connection.settimeout(2)
        try:
            connection.recv(4096)
        except OSError:
            return


def test_fuzzed_bodies_are_json_or_not(targets: dict[str, str]) -> None:
    """Random mutations of a good body: an answer, or an error that says what is wrong."""
    source = random.Random(SEED)
    good = json.dumps(
        {
            "model": "tiny-random",
            "input_ids": [11, 12, 13],
            "sampling_params": {"max_new_tokens": 1},
        }
    ).encode()
    with httpx.Client(timeout=60, trust_env=False) as client:
        for _ in range(60):
            body = bytearray(good)
            for _ in range(source.randint(1, 4)):
                body[source.randrange(len(body))] = source.randrange(256)
            answer = client.post(
                f"{targets['gateway']}/generate", content=bytes(body),
                headers={"content-type": "application/json"},
            )  # fmt: skip
            assert answer.status_code < 500 or answer.text.strip(), bytes(body)
