"""The shipped prefill_only topology as it stands, with the real chat model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from pdcache.plan import Plan
from pdcache.topology import Role
from tests.cluster_tools import Shell, cluster, free_port
from tests.dialogues import Running, assert_full_reuse, dialogue, running_cluster


@pytest.fixture(scope="module")
def prefill_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shell, Any]]:
    shell = Shell(tmp_path_factory.mktemp("home"))
    port = f"gateway.port={free_port()}"
    with cluster(shell, "topologies/prefill_only.yaml", "--set", port) as up:
        yield shell, up


@pytest.fixture(scope="module")
def running(prefill_only: tuple[Shell, Any]) -> Running:
    shell, up = prefill_only
    return running_cluster(shell, up["name"])


@pytest.fixture(scope="module")
def plan(running: Running) -> Plan:
    return running.plan


def test_it_is_proved_without_any_hop_from_decode(prefill_only: tuple[Shell, Any]) -> None:
    canaries = prefill_only[1]["proof"]["canaries"]
    assert {canary["name"] for canary in canaries} == {
        "same prompt after a flush",
        "same prompt on another prefill",
    }


def test_the_model_knows_the_capital_of_france(plan: Plan) -> None:
    question = {"role": "user", "content": "What is the capital of France?"}
    answer = httpx.post(
        f"{plan.endpoint}/v1/chat/completions",
        json={"model": "smollm2-135m", "messages": [question], "temperature": 0, "max_tokens": 12},
        timeout=60, trust_env=False,
    ).json()  # fmt: skip
    assert "Paris" in answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize("flushed", [False, True], ids=["hot", "flushed"])
def test_prompts_are_reused_up_to_the_ceiling_of_the_mode(running: Running, flushed: bool) -> None:
    turns = dialogue(
        running, answer=24, flushed=flushed, turns=3, seed=5 + flushed,
        prefill_of=lambda turn: running.plan.role(Role.PREFILL)[turn % 2],
    )  # fmt: skip
    assert_full_reuse(turns)


def test_answers_are_not_reused(running: Running) -> None:
    prefill = running.plan.role(Role.PREFILL)[0]
    turns = dialogue(
        running, answer=70, flushed=False, turns=2, seed=8, first=100,
        prefill_of=lambda turn: prefill,
    )  # fmt: skip
    assert turns[1].device + turns[1].host + turns[1].storage == 64
