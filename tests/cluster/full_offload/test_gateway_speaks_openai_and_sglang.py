"""The gateway's three APIs, streaming, cached tokens, and a dialogue's affinity."""

from __future__ import annotations

import json
from typing import Any

import httpx

from pdcache.plan import Plan
from pdcache.sglang.admin import parse_metrics
from pdcache.topology import Role
from tests.cluster_tools import wait_for

QUESTION = "the quick brown fox jumps over the lazy dog and thinks of a cache of many pages " * 3


def post(plan: Plan, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    response = httpx.post(
        f"{plan.endpoint}{path}", json={"model": "tiny-random", **body}, headers=headers,
        timeout=60, trust_env=False,
    )  # fmt: skip
    assert response.status_code == 200, response.text
    data: dict[str, Any] = response.json()
    return data


def chat(text: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "max_tokens": 8, "temperature": 0, **more}


def test_chat_tells_how_many_tokens_were_cached(plan: Plan) -> None:
    text = "first time seen " + QUESTION
    first = post(plan, "/v1/chat/completions", chat(text), **{"X-Session-ID": "a"})
    again = post(plan, "/v1/chat/completions", chat(text), **{"X-Session-ID": "a"})
    tokens = first["usage"]["prompt_tokens"]
    cached = again["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached == (tokens - 1) // 16 * 16
    assert again["choices"][0]["message"] == first["choices"][0]["message"]


def test_cached_tokens_are_told_by_tier_when_asked_for(plan: Plan) -> None:
    body = chat("by tier " + QUESTION, return_cached_tokens_details=True)
    post(plan, "/v1/chat/completions", body, **{"X-Session-ID": "tier"})
    again = post(plan, "/v1/chat/completions", body, **{"X-Session-ID": "tier"})
    details = again["sglext"]["cached_tokens_details"]
    assert details["device"] == again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_completions_and_generate_answer(plan: Plan) -> None:
    prompt = {"prompt": QUESTION, "max_tokens": 4, "temperature": 0}
    text = post(plan, "/v1/completions", prompt)["choices"][0]["text"]
    body = {"text": QUESTION, "sampling_params": {"max_new_tokens": 4, "temperature": 0}}
    assert post(plan, "/generate", body)["text"] == text != ""


def test_streaming_gives_the_same_answer_in_pieces(plan: Plan) -> None:
    whole = post(plan, "/v1/chat/completions", chat(QUESTION))["choices"][0]["message"]["content"]
    body = {"model": "tiny-random", **chat(QUESTION, stream=True)}
    pieces = []
    url = f"{plan.endpoint}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=60, trust_env=False) as response:
        for line in response.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                for choice in json.loads(line[6:])["choices"]:
                    pieces.append(choice["delta"].get("content") or "")
    assert len([piece for piece in pieces if piece]) > 1
    assert "".join(pieces) == whole


def computed_by(plan: Plan) -> dict[str, float]:
    """Tokens each prefill has computed and copied to its L2."""
    counts = {}
    for worker in plan.role(Role.PREFILL):
        text = httpx.get(f"{worker.url}/metrics", timeout=30, trust_env=False).text
        counts[worker.name] = parse_metrics(text).get("sglang:hicache_backup_tokens_total", 0.0)
    return counts


def test_a_session_header_keeps_a_dialogue_on_one_prefill(plan: Plan) -> None:
    for header in ("X-Session-ID", "X-Session-Affinity"):
        before = computed_by(plan)
        for turn in range(6):
            body = chat(f"{turn} {header} {QUESTION}")
            post(plan, "/v1/chat/completions", body, **{header: f"dialogue-{header}"})
        wait_for(lambda before=before: computed_by(plan) != before, "L2 copies", limit_s=10)
        after = computed_by(plan)
        grown = [name for name in after if after[name] > before[name]]
        assert len(grown) == 1, (header, before, after)


def test_a_wrong_model_name_is_an_error(plan: Plan) -> None:
    response = httpx.post(
        f"{plan.endpoint}/v1/chat/completions", json={"model": "nobody", **chat("hello")},
        timeout=60, trust_env=False,
    )  # fmt: skip
    assert response.status_code >= 400
