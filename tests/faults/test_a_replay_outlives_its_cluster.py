"""A cluster goes down under a replay; the replay says so, and goes on when there is one again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster_tools import SMALL, Shell, cluster, free_port
from tests.cut_replays import CutReplay

NAME = "comes-and-goes"


@pytest.mark.soak
def test_a_replay_goes_on_with_the_next_cluster_of_that_name(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "home")
    port = f"gateway.port={free_port()}"
    words = ("topologies/full_offload.yaml", *SMALL, "--set", port, "--name", NAME)
    with cluster(shell, *words):
        replay = CutReplay(shell, NAME, tmp_path)
        shell.ok("down", NAME)
        said, _ = replay.client.communicate(timeout=120)
        assert replay.client.returncode == 1, said
        assert "Traceback" not in said and "--resume" in said
    with cluster(shell, *words):
        replay.resume()
