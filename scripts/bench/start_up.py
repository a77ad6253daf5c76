"""Where do the seconds of `pdcache up` go?

    python scripts/bench/start_up.py [--starts 3] [--set KEY=VALUE]...

No peer: `against_hand.py` compares the whole with the same processes by hand. Stages are told by
the cluster's events, what a worker does by SGLang's log, whose lines have whole seconds. Limit:
the proof 30 s. Writes build/start_up.json; exit 1 above the limit.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from stacks import PDCACHE, ROOT, by_pdcache, environment

PROOF_LIMIT_S = 30.0
STAMP = re.compile(r"^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)[^\]]*\] (.*)")
MILESTONES = (
    ("arguments", "server_args="),
    ("tokenizer, process groups, transfer engine", "Memory baseline taken"),
    ("code of all models", "Load weight begin"),
    ("weights", "Load weight end"),
    ("KV pools, HiCache, store", "Engine startup timings"),
    ("HTTP", "The server is fired up"),
)
"""What a worker does until a line of its log begins so."""

Seconds = dict[str, list[float]]


def main() -> int:
    """Measure, print, write; 0 when the proof is within its limit."""
    parser = argparse.ArgumentParser(description="Where the seconds of `pdcache up` go.")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    own = parser.parse_args()
    stages: Seconds = defaultdict(list)
    workers: Seconds = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="pdc-bench-") as folder:
        for number in range(own.starts):
            home, began_s = Path(folder) / str(number), time.time()
            with by_pdcache(home, *own.set, verify=True) as stack:
                for stage, seconds in stages_of(home, began_s, stack.started_in_s):
                    stages[stage].append(seconds)
                for part, seconds in parts_of_workers(home):
                    workers[part].append(seconds)
            print(f"start {number + 1} of {own.starts}", flush=True)
    return report(stages, workers)


def stages_of(home: Path, began_s: float, whole_s: float) -> Iterator[tuple[str, float]]:
    """Seconds of each stage of `up`, in order."""
    events = _events(home)
    ends = {"Ray, check, plan": _starts_s(events[0])}
    for event in events:
        stage = event["subject"].rstrip("-0123456789")
        stage = {"store-master": "store", "store-holder": "store", "prefill": "workers",
                 "decode": "workers", "cluster": "proof"}.get(stage, stage)  # fmt: skip
        ends[stage] = event["at_s"]
    before_s = began_s
    for stage, end_s in ends.items():
        yield stage, end_s - before_s
        before_s = end_s
    yield "last words", began_s + whole_s - before_s
    yield "all", whole_s


def _events(home: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = _told(home, "events", "full-offload", "-n", "1000")["events"]
    return events


def _starts_s(event: dict[str, Any]) -> float:
    """When the process of a `started` event was started."""
    took = re.search(r"after ([\d.]+) s", event["text"])
    assert took is not None, event
    return float(event["at_s"]) - float(took[1])


def parts_of_workers(home: Path) -> Iterator[tuple[str, float]]:
    """Seconds of each part of each worker's start."""
    logs = next((home / "clusters").glob("*/logs"))
    started = (event for event in _events(home) if event["kind"] == "started")
    starts = {event["subject"]: _starts_s(event) for event in started}
    for worker in _told(home, "status")["workers"]:
        if worker["role"] not in ("prefill", "decode"):
            continue
        before_s = psutil.Process(worker["pid"]).create_time()
        yield "wait for the preloaded server", before_s - starts[worker["name"]]
        lines = [found for line in (logs / f"{worker['name']}.log").read_text().splitlines()
                 if (found := STAMP.match(line))]  # fmt: skip
        for part, milestone in MILESTONES:
            stamp = next(line[1] for line in lines if line[2].startswith(milestone))
            at_s = datetime.fromisoformat(stamp).timestamp()
            yield part, max(at_s - before_s, 0.0)
            before_s = at_s


def _told(home: Path, *words: str) -> Any:
    done = subprocess.run([PDCACHE, *words, "--json"], check=True, env=environment(home), cwd=ROOT,
                          capture_output=True, text=True)  # fmt: skip
    return json.loads(done.stdout)


def report(stages: Seconds, workers: Seconds) -> int:
    """Medians and spread."""
    rows: dict[str, Any] = {
        title: {
            part: {"median": round(statistics.median(of), 2), "spread": [min(of), max(of)]}
            for part, of in seconds.items()
        }
        for title, seconds in (("stages", stages), ("a worker", workers))
    }
    kept = rows["stages"]["proof"]["median"] <= PROOF_LIMIT_S
    print(json.dumps(rows, indent=1))
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    (build / "start_up.json").write_text(json.dumps(rows, indent=1))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
