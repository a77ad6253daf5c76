"""Does the client's memory stay flat over 100,000 requests?

    python scripts/bench/client_memory.py [--requests 100000] [--concurrency 64]

One client against `streaming_server.py` in a process of its own; every session asks the same, so
that the pages which the ceiling knows (100 bytes each) stay the same too. Peer: the client itself
after a tenth of the requests. Limit: 10 MB more at the end. Writes build/client_memory.json; exit 1
above the limit, or when a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from pdcache.models import resolve_model
from pdcache.replay import (
    ChatTokenizer,
    Journal,
    ReplayEvent,
    ReplaySpec,
    Session,
    Turn,
    TurnDone,
    run_replay,
)

ROOT = Path(__file__).resolve().parents[2]
LIMIT_MB = 10.0


def main() -> int:
    """Measure, print, write; 0 when memory is flat."""
    parser = argparse.ArgumentParser(description="Memory of the client over many requests.")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=64)
    given = parser.parse_args()
    turns = (Turn("What does the quiet harbour follow?", given.tokens),)
    spec = ReplaySpec(
        [Session(f"s{i}", turns) for i in range(given.requests)],
        ChatTokenizer.from_folder(resolve_model("tiny-random")),
        page_size=16, mode="full_offload", concurrency=given.concurrency,
    )  # fmt: skip
    words = [sys.executable, str(Path(__file__).with_name("streaming_server.py"))]
    with (
        tempfile.TemporaryDirectory() as temp,
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            samples, failed, load_s = measure(spec, server.stdout.readline().strip(), Path(temp))
        finally:
            server.terminate()
    growth = samples[-1] - samples[0]
    result = {
        "schema": 1, "requests": given.requests, "failed": failed, "load_s": load_s,
        "rss_mb_by_tenth": samples, "growth_mb": growth, "limit_mb": LIMIT_MB,
        "kept": growth <= LIMIT_MB and not failed,
    }  # fmt: skip
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "client_memory.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    return 0 if result["kept"] else 1


def measure(spec: ReplaySpec, url: str, folder: Path) -> tuple[list[float], int, float]:
    """Resident memory in MB after each tenth of the requests, failures, seconds."""
    own = psutil.Process()
    samples: list[float] = []
    done = 0
    tenth = spec.planned // 10

    def look(event: ReplayEvent) -> None:
        nonlocal done
        if isinstance(event, TurnDone):
            done += 1
            if done % tenth == 0:
                samples.append(own.memory_info().rss / 1e6)

    begin = time.monotonic()
    with Journal(folder, {}) as journal:
        summary = asyncio.run(run_replay(spec, url, journal, on_event=look))
    return samples, summary.failed, time.monotonic() - begin


if __name__ == "__main__":
    sys.exit(main())
