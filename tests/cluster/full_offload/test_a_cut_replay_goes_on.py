"""A replay whose client or whose worker is killed loses no record, and is taken up again."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from tests.cluster_tools import Shell, kill, wait_for
from tests.cut_replays import CutReplay


def test_a_client_that_is_killed_goes_on(
    shell: Shell, full_offload: dict[str, Any], tmp_path: Path
) -> None:
    replay = CutReplay(shell, full_offload["name"], tmp_path)
    replay.client.kill()
    replay.client.communicate(timeout=10)
    records = replay.resume()
    assert not any(record["error"] for record in records)


def test_a_client_that_is_interrupted_says_how_to_go_on(
    shell: Shell, full_offload: dict[str, Any], tmp_path: Path
) -> None:
    replay = CutReplay(shell, full_offload["name"], tmp_path)
    replay.client.send_signal(signal.SIGINT)
    said, _ = replay.client.communicate(timeout=20)
    assert replay.client.returncode == 130
    assert f"--resume {replay.out}" in " ".join(said.split())
    replay.resume()


def test_a_worker_that_is_killed_costs_no_more_than_its_streams(
    shell: Shell, full_offload: dict[str, Any], tmp_path: Path
) -> None:
    name = full_offload["name"]
    replay = CutReplay(shell, name, tmp_path)
    status = shell.json("status", name)
    kill(next(one["pid"] for one in status["workers"] if one["name"] == "decode-0"))
    replay.client.communicate(timeout=120)
    assert replay.client.returncode in (0, 1)
    failed = [record for record in replay.records() if record["error"]]
    assert bool(failed) is (replay.client.returncode == 1)
    wait_for(lambda: shell.json("status", name)["state"] == "UP", "decode-0", limit_s=90)
    if failed:
        replay.resume()
