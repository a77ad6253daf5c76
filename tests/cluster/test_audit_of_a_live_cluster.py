"""`verify --audit` hears dialogues as they run, and tells right KV from wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster_tools import SMALL, Shell, cluster, free_port
from tests.dialogues import running_cluster
from tests.load import Load

AUDIT = ("--audit", "--seconds", "5", "--samples", "4", "--json")
OTHER_BYTE_ORDER = (
    "--set", "prefill.hicache.io_backend=kernel", "--set", "prefill.hicache.layout=page_first",
    "--set", "decode.hicache.io_backend=direct", "--set", "decode.hicache.layout=page_first",
    "--set", "store.namespace=shared", "--skip-check", "layout", "--no-verify",
)  # fmt: skip


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "home")


def published() -> tuple[str, ...]:
    """A tiny cluster whose prefill publishes KV events, on free ports."""
    ports = {"gateway.port", "prefill.kv_events.port", "prefill.kv_events.replay_port"}
    given = [word for port in ports for word in ("--set", f"{port}={free_port()}")]
    return ("topologies/full_offload.yaml", *SMALL, "--set", "name=audited", *given)


def test_dialogues_are_audited_while_they_run(shell: Shell) -> None:
    with cluster(shell, *published()) as up:
        with Load(running_cluster(shell, up["name"]).plan) as load:
            load.wait_for_turns(8)
            done = shell.run("verify", *AUDIT)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["audited"] is True
        assert told["unanswered"] == []
        assert 1 <= len(told["samples"]) <= 4
        for sample in told["samples"]:
            assert (sample["prefill"], sample["decode"]) == ("prefill-0", "decode-0")
            assert sample["tokens_equal"] is True
            assert 0 < sum(sample["cached_tokens"].values()) < sample["prompt_tokens"]
        assert [str(turn) for turn in load.done if turn.error] == []
        assert shell.json("status", up["name"])["state"] == "UP"


@pytest.mark.soak
def test_wrong_kv_is_found_in_dialogues_and_degrades_the_cluster(shell: Shell) -> None:
    with cluster(shell, *published(), *OTHER_BYTE_ORDER) as up:
        with Load(running_cluster(shell, up["name"]).plan) as load:
            load.wait_for_turns(8)
            done = shell.run("verify", *AUDIT)
        assert done.returncode == 1, done.stderr
        told = json.loads(done.stdout)
        assert told["audited"] is False
        assert False in [sample["tokens_equal"] for sample in told["samples"]]
        status = shell.json("status", up["name"])
        assert status["state"] == "DEGRADED"
        assert [reason for reason in status["reasons"] if "tokens differ from position" in reason]
