"""`plan --shell` is a script that a person can run by hand."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import httpx

from tests.cluster_tools import ROOT, SMALL, Shell, free_port


def test_the_script_brings_the_cluster_up_serves_and_cleans_up(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "home")
    port = free_port()
    script = shell.ok(
        "plan", "topologies/full_offload.yaml", *SMALL, "--set", f"gateway.port={port}", "--shell"
    )
    run = subprocess.Popen(
        ["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=shell.env | {"LOGS": str(tmp_path)}, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    try:
        assert run.stdout is not None
        while not (line := run.stdout.readline()).startswith("UP "):
            assert line, "the script ended before the cluster was up"
        body = {"model": "tiny-random", "prompt": "share a cache", "max_tokens": 4}
        url = f"{line.split()[1]}/v1/completions"
        answer = httpx.post(url, json=body, timeout=60, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 4
        ports = shell.listening()
    finally:
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    shell.assert_nothing_left(ports)
