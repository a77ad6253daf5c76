"""The published conversation trace of Mooncake, whose figures are known."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TRACE = ROOT.parent / "shared/data/mooncake/conversation_trace.jsonl"
COMMAND = [sys.executable, "-c", "from pdcache.cli.main import main; main()", "trace", "stats"]


@pytest.mark.skipif(not TRACE.exists(), reason=f"the trace is not at {TRACE}")
def test_the_command_finds_the_published_figures_in_five_seconds_of_one_core() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*COMMAND, str(TRACE), "--json", "--page-size", "64"],
        cwd=ROOT, capture_output=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    stats = json.loads(done.stdout)
    assert (stats["requests"], stats["block_refs"], stats["unique_blocks"]) == (
        12_031, 288_500, 182_790,
    )  # fmt: skip
    assert round(stats["ceiling_blocks"], 4) == 0.3664
    assert round(stats["ceiling_tokens"], 4) == 0.3736
    lru = {capacity: round(share, 3) for capacity, share in stats["lru"].items()}
    assert [lru[size] for size in ("1000", "10000", "30000")] == [0.045, 0.212, 0.326]
    assert stats["malformed"]["lines"] == 0
    for capacity, share in stats["optimal"].items():
        assert stats["lru"][capacity] <= share <= stats["ceiling_blocks"]
    assert stats["input_tokens"]["p99"] == 85_401
    # Processor time, so that other load on the machine does not count.
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent_s < 5
