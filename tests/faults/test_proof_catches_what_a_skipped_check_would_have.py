"""Mismatches that SGLang starts with and that corrupt or lose KV silently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster_tools import SMALL, Shell, free_port

MISMATCH = (
    "--set", "prefill.hicache.io_backend=kernel", "--set", "prefill.hicache.layout=page_first",
    "--set", "decode.hicache.io_backend=direct", "--set", "decode.hicache.layout=page_first",
)  # fmt: skip
ONE_NAMESPACE = ("--set", "store.namespace=shared")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "home")


def test_check_refuses_another_byte_order_with_the_corrected_yaml(shell: Shell) -> None:
    done = shell.run("check", "topologies/full_offload.yaml", *MISMATCH, "--json")
    assert done.returncode == 1
    errors = [f for f in json.loads(done.stdout)["findings"] if f["severity"] == "error"]
    assert {finding["rule"] for finding in errors} == {"layout"}
    assert "layout: page_first" in errors[0]["fix"] and "io_backend: kernel" in errors[0]["fix"]


def test_up_refuses_it_before_anything_starts(shell: Shell) -> None:
    message = shell.fails("up", "topologies/full_offload.yaml", *SMALL, *MISMATCH)
    assert "nothing was started" in message
    shell.assert_nothing_left()


def test_with_the_check_skipped_the_proof_sees_wrong_tokens(shell: Shell) -> None:
    port = f"gateway.port={free_port()}"
    message = shell.fails(
        "up", "topologies/full_offload.yaml", *SMALL, *MISMATCH, *ONE_NAMESPACE, "--set", port,
        "--skip-check", "layout", limit_s=400,
    )  # fmt: skip
    assert "reuse is not proved" in message and "tokens differ" in message
    assert "byte orders" in message
    shell.assert_nothing_left()
