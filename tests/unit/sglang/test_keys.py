"""Who gets which key, and that keys show in no text."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from golden.plans import golden_plan

from pdcache.cluster.record import write_secret
from pdcache.sglang.keys import ADMIN_PATHS, ClusterAuth, Keys, new_keys, read_keys

PLAN = golden_plan("full_offload")
KEYS = Keys("the-admin-key", "the-gateway-key")
PREFILL, DECODE, GATEWAY, MASTER = (
    PLAN.process(name).url for name in ("prefill-0", "decode-0", "gateway", "store-master")
)


def sent(url: str, keys: Keys = KEYS, **more: object) -> str | None:
    """The header that arrives when a client of the cluster asks for a URL."""
    seen: list[str | None] = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("Authorization"))
        return httpx.Response(200)

    async def ask() -> None:
        auth = ClusterAuth(lambda: PLAN, keys)
        async with httpx.AsyncClient(transport=httpx.MockTransport(note), auth=auth) as client:
            await client.get(url, **more)

    asyncio.run(ask())
    return seen[0]


@pytest.mark.parametrize("show", [str, repr, "{}".format, lambda keys: f"{keys!r:>80}",
                                  lambda keys: f"{[keys]} {vars(keys).keys()}"])  # fmt: skip
def test_keys_show_in_no_text_that_is_made_of_them(show: object) -> None:
    assert callable(show)
    text = show(KEYS)
    assert "the-admin" not in text
    assert "the-gateway" not in text


def test_keys_show_in_no_message_of_an_error_they_are_a_part_of() -> None:
    with pytest.raises(TypeError) as caught:
        len(KEYS)  # type: ignore[arg-type]
    assert "the-" not in str(caught.value)


def test_two_clusters_have_different_admin_keys_that_cannot_be_guessed() -> None:
    made = {new_keys(None).admin for _ in range(50)}
    assert len(made) == 50
    assert all(len(key) >= 32 for key in made)


def test_the_gateways_key_is_the_one_that_is_given() -> None:
    assert new_keys("given").gateway == "given"
    assert new_keys("given").admin != "given"
    assert new_keys(None).gateway is None


@pytest.mark.parametrize("keys", [KEYS, Keys("a")])
def test_keys_are_read_from_their_file_as_they_were(tmp_path: Path, keys: Keys) -> None:
    write_secret(tmp_path / "keys.json", keys.text())
    assert read_keys(tmp_path / "keys.json") == keys


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"admin": "a", "more": 1}'])
def test_a_file_without_keys_is_an_error_that_does_not_show_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises((ValueError, TypeError)):
        read_keys(tmp_path / "keys.json")


def test_a_client_of_the_gateway_sends_its_key_if_there_is_one() -> None:
    assert KEYS.headers() == {"Authorization": "Bearer the-gateway-key"}
    assert Keys("a").headers() == {}


@pytest.mark.parametrize("worker", [PREFILL, DECODE])
@pytest.mark.parametrize("path", [*ADMIN_PATHS, "/hicache/storage-backend"])
def test_the_administration_of_a_worker_gets_the_admin_key(worker: str, path: str) -> None:
    assert sent(f"{worker}{path}") == "Bearer the-admin-key"
    assert sent(f"{worker}{path}", Keys("only-admin")) == "Bearer only-admin"


@pytest.mark.parametrize(
    "url",
    [f"{PREFILL}/generate", f"{DECODE}/health", f"{PREFILL}/v1/loads?include=core",
     f"{GATEWAY}/generate", f"{GATEWAY}/v1/chat/completions", f"{GATEWAY}/flush_cache",
     f"{PREFILL}/v1/hicache/", f"{PREFILL}/x?/flush_cache"],
)  # fmt: skip
def test_all_else_of_workers_and_the_gateway_gets_the_gateways_key(url: str) -> None:
    assert sent(url) == "Bearer the-gateway-key"
    assert sent(url, Keys("only-admin")) is None


@pytest.mark.parametrize("path", ["/workers", "/workers/1"])
def test_what_changes_the_gateway_gets_the_admin_key(path: str) -> None:
    assert sent(f"{GATEWAY}{path}") == "Bearer the-admin-key"


@pytest.mark.parametrize(
    "url",
    [f"{MASTER}/metrics", f"{MASTER}/flush_cache", "http://127.0.0.1:1/flush_cache",
     "http://example.com/generate", f"{PREFILL}0/flush_cache",
     f"{str(PREFILL).replace('http', 'https')}/flush_cache",
     f"{str(PREFILL).replace('127.0.0.1', 'localhost')}/flush_cache"],
)  # fmt: skip
def test_the_store_and_strangers_get_no_key(url: str) -> None:
    assert sent(url) is None


def test_a_request_that_brings_no_auth_of_the_cluster_gets_no_key() -> None:
    assert sent(f"{PREFILL}/flush_cache", auth=None) is None


def test_a_worker_that_a_change_added_gets_its_key_too() -> None:
    plans = [PLAN]
    auth = ClusterAuth(lambda: plans[-1], KEYS)

    def header(url: str) -> str | None:
        request = next(auth.auth_flow(httpx.Request("GET", url)))
        return request.headers.get("Authorization")

    assert header("http://127.0.0.1:21009/generate") is None
    new = replace(PLAN.process("prefill-0"), name="prefill-9", url="http://127.0.0.1:21009")
    plans.append(replace(PLAN, processes=(*PLAN.processes, new)))
    assert header("http://127.0.0.1:21009/generate") == "Bearer the-gateway-key"
