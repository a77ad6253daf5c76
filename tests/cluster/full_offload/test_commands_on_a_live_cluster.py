"""status, verify, logs, up and replay, each a shell command of its own on the shared cluster."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pdcache.replay import dump_sessions, generate_chat
from tests.cluster_tools import Shell


def test_up_reports_a_proof_of_every_hop(full_offload: dict[str, Any]) -> None:
    assert full_offload["state"] == "UP"
    names = {canary["name"] for canary in full_offload["proof"]["canaries"]}
    assert names == {
        "same prompt after a flush",
        "same prompt on another prefill",
        "short answer on a hot prompt",
        "prompt and answer after a flush",
    }
    assert all(canary["proved"] for canary in full_offload["proof"]["canaries"])


def test_status_names_every_process_with_pid_and_url(
    shell: Shell, full_offload: dict[str, Any]
) -> None:
    status = shell.json("status")
    assert status["name"] == full_offload["name"]
    assert status["state"] == "UP" and status["endpoint"] == full_offload["endpoint"]
    roles = [worker["role"] for worker in status["workers"]]
    assert sorted(roles) == ["decode", "gateway", "prefill", "prefill", "store", "store"]
    alive = {process.pid for process in shell.processes()}
    assert all(worker["pid"] in alive for worker in status["workers"])
    assert "prefill-0" in shell.ok("status")


def test_verify_proves_again(shell: Shell, full_offload: dict[str, Any]) -> None:
    proof = shell.json("verify", full_offload["name"])
    assert proof["proved"] is True
    for canary in proof["canaries"]:
        assert canary["cached_tokens"]["storage"] >= canary["expected_storage_tokens"] > 0
        assert canary["tokens_equal"] is True


def test_up_of_a_running_name_says_so(shell: Shell, full_offload: dict[str, Any]) -> None:
    message = shell.fails("up", "topologies/full_offload.yaml")
    assert "is up already" in message and "pdcache down full-offload" in message


def test_logs_show_one_process_or_all(shell: Shell, full_offload: dict[str, Any]) -> None:
    name = full_offload["name"]
    shell.json("verify", name)
    assert "Prefill batch" in shell.ok("logs", name, "prefill-0", "-n", "200")
    everything = shell.ok("logs", name)
    assert "decode-0" in everything and "prefill-1" in everything
    assert "Processes:" in shell.fails("logs", name, "prefill-9")


def test_logs_follow_prints_new_lines(shell: Shell, full_offload: dict[str, Any]) -> None:
    follower = shell.start("logs", full_offload["name"], "prefill-0", "-f", "-n", "1")
    try:
        assert follower.stdout is not None
        follower.stdout.readline()
        shell.json("verify", full_offload["name"])
        assert any("Prefill batch" in follower.stdout.readline() for _ in range(50))
    finally:
        follower.terminate()
        follower.communicate(timeout=10)


def test_replay_reaches_the_ceiling_and_writes_its_report(
    shell: Shell, full_offload: dict[str, Any], tmp_path: Path
) -> None:
    sessions = generate_chat(
        2, 3, first_words=60, question_words=10, answer_tokens=24, think_s=0.5, seed=11
    )
    dump_sessions(sessions, tmp_path / "chats.jsonl")
    out = tmp_path / "run"
    name = full_offload["name"]
    chats = str(tmp_path / "chats.jsonl")
    printed = shell.json("replay", chats, "--target", name, "--out", str(out))
    assert printed == json.loads((out / "report.json").read_text())
    assert printed["errors"] == 0 and printed["requests"]["completed"] == 6
    for turn in printed["turns"][1:]:
        assert turn["hit_over_ceiling"] >= 0.99, turn
    lines = [json.loads(line) for line in (out / "requests.jsonl").read_text().splitlines()]
    assert {line["worker"] for line in lines} <= {"decode-0", "decode-1"}
    assert {line["prefill"] for line in lines} <= {"prefill-0", "prefill-1"}
    copy = shutil.copytree(out, tmp_path / "copy")
    compared = shell.json("compare", str(out), str(copy))
    assert compared["differences"] == {"copy": []}


def test_replay_asks_the_chat_endpoint(
    shell: Shell, full_offload: dict[str, Any], tmp_path: Path
) -> None:
    sessions = generate_chat(1, 3, first_words=60, question_words=10, answer_tokens=24, think_s=0.5)
    dump_sessions(sessions, tmp_path / "chats.jsonl")
    words = ("--target", full_offload["name"], "--dialect", "openai-chat", "--salt", "chat")
    printed = shell.json(
        "replay", str(tmp_path / "chats.jsonl"), *words, "--out", str(tmp_path / "run")
    )
    assert printed["errors"] == 0 and printed["requests"]["completed"] == 3
    # Only the prompts: the text of this model's answers is not made of the same tokens again.
    assert all(sum(turn["cached_tokens"].values()) > 0 for turn in printed["turns"][1:])


def test_the_gateway_takes_no_tokens_for_a_completion(
    shell: Shell, full_offload: dict[str, Any], tmp_path: Path
) -> None:
    dump_sessions(generate_chat(1, 1, first_words=9, answer_tokens=2), tmp_path / "chats.jsonl")
    words = ("--target", full_offload["name"], "--dialect", "openai-completions")
    said = shell.fails(
        "replay", str(tmp_path / "chats.jsonl"), *words, "--out", str(tmp_path / "run")
    )
    assert "http_400" in said and "prompt" in said


def test_replay_of_an_unknown_cluster_names_those_that_are_up(
    shell: Shell, full_offload: dict[str, Any]
) -> None:
    message = shell.fails("replay", "examples/multi_turn/sessions.jsonl", "--target", "nobody")
    assert full_offload["name"] in message
