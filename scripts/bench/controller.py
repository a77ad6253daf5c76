"""What does the controller of 100 workers cost while nothing happens?

    python scripts/bench/controller.py [--workers 100] [--seconds 30] [--repeats 3]

The controller's own watches run over workers that are stubs: `stub_workers.py` answers their HTTP
in a process of its own, and calls of their actors wait as long as an actor would. What Ray takes
for a call is not in it, so the calls are counted; so are HTTP requests, and writes to Ray's GCS.
Peer: the same controller with a tenth of the workers.
Limits: the longest pass of any watch 0.5 s, and 3 % of a core, medians of the repeats. A pass is
from waking up to going to sleep again, on the wall: on a busy machine it is longer than the
controller is to blame for. Writes build/controller.json; exit 1 above a limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil

from pdcache.cluster import watching
from pdcache.cluster.controller import WATCHES
from pdcache.cluster.desired import Desired
from pdcache.cluster.events import Events
from pdcache.cluster.live import Live
from pdcache.cluster.process_actor import Vitals
from pdcache.cluster.states import ProcessState, ProcessStatus
from pdcache.cluster.tree import TreeState
from pdcache.faults import contents, disk, loads, reuse, writes
from pdcache.plan import Plan, build_plan
from pdcache.plan.process import Process
from pdcache.sglang.keys import Keys
from pdcache.topology import Topology, parse_topology
from pdcache.topology.facts import Facts, Node

ROOT = Path(__file__).resolve().parents[2]
STUBS = Path(__file__).with_name("stub_workers.py")
PASS_LIMIT_S, CPU_LIMIT = 0.5, 0.03
SETTLE_S = 12.0
"""Connections are opened and the first answers compared with nothing."""

TOPOLOGY = """
name: stubs
mode: full_offload
device: cuda
model: {{path: Qwen/Qwen3-8B}}
prefill: {{workers: {half}}}
decode: {{workers: {half}}}
store: {{backend: mooncake, holders: 0, worker_segment_gb: 4}}
gateway: {{host: 127.77.0.1, port: 8000}}
"""


class StubFleet:
    """Actors without processes: all is well, and a call waits as long as an actor would."""

    def __init__(self, plan: Plan) -> None:
        self.calls = 0
        self.statuses = {
            own.name: ProcessStatus(
                own.name, own.role.value, own.url, ProcessState.HEALTHY, incarnation=1
            )
            for own in plan.processes
        }

    def is_healthy(self, process: Process) -> bool:
        """Always, here."""
        return self.statuses[process.name].state is ProcessState.HEALTHY

    async def changed(self, process: Process, limit_s: float) -> Vitals:
        """Nothing changes."""
        self.calls += 1
        await asyncio.sleep(limit_s)
        return Vitals(1, 2, 3, True, None, 1, TreeState())

    async def write_file(self, process: Process, path: str, text: str) -> None:
        """The manifest goes nowhere."""
        self.calls += 1


class CountedDesired(Desired):
    """Counts how often it would be written to the GCS."""

    writes = 0

    def save(self, cluster: str) -> None:
        """Count."""
        CountedDesired.writes += 1


class Passes:
    """Takes the place of `asyncio` in the modules of the watches, and times their passes."""

    def __init__(self) -> None:
        self._woke: dict[str, float] = {}
        self.longest_s: dict[str, float] = defaultdict(float)

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        """Sleep; what came before since the last sleep of this task was a pass."""
        task = asyncio.current_task()
        name = task.get_name() if task is not None else ""
        if name in self._woke:
            took = time.monotonic() - self._woke[name]
            self.longest_s[name] = max(self.longest_s[name], took)
        await asyncio.sleep(seconds)
        self._woke[name] = time.monotonic()


def main() -> int:
    """Measure, print, write; 0 when both limits are kept."""
    parser = argparse.ArgumentParser(description="Cost of the controller while nothing happens.")
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    many = [once(given.workers, given.seconds) for _ in range(given.repeats)]
    few = [once(given.workers // 10, given.seconds) for _ in range(given.repeats)]
    cpu = spread([row["cpu"] for row in many])
    longest_s = spread([max(row["longest_pass_s"].values()) for row in many])
    kept = cpu["median"] <= CPU_LIMIT and longest_s["median"] <= PASS_LIMIT_S
    result = {
        "schema": 1, "workers": given.workers, "seconds": given.seconds, "cpu": cpu,
        "longest_pass_s": longest_s, "cpu_of_a_tenth": spread([row["cpu"] for row in few]),
        "runs": many, "runs_of_a_tenth": few,
        "cpu_limit": CPU_LIMIT, "pass_limit_s": PASS_LIMIT_S, "kept": kept,
    }  # fmt: skip
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "controller.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    return 0 if kept else 1


def once(workers: int, seconds: float) -> dict[str, Any]:
    """One run with stubs of its own."""
    topology = parse_topology(TOPOLOGY.format(half=workers // 2), source="stubs.yaml")
    nodes = tuple(Node(f"127.77.0.{i + 1}", 2 << 40, 96, 8) for i in range(-(-workers // 8)))
    with tempfile.TemporaryDirectory() as folder:
        facts = Facts(nodes=nodes, home=Path(folder), temp=Path(folder))
        plan = build_plan(topology, facts)
        urls = sorted({own.url for own in plan.processes if own.url} | {*plan.store.urls})
        addresses = [url.removeprefix("http://") for url in urls]
        words = [sys.executable, str(STUBS), *addresses]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as stubs:
            try:
                assert stubs.stdout is not None and stubs.stdout.readline() == "ready\n"
                return asyncio.run(watched(plan, topology, Path(folder), seconds))
            finally:
                stubs.terminate()


async def watched(plan: Plan, topology: Topology, folder: Path, seconds: float) -> dict[str, Any]:
    """CPU of this process as a share of a core, passes, and what was asked a second."""
    fleet = StubFleet(plan)
    desired = CountedDesired(plan, topology, Keys("admin"), proved=True, serving=True)
    live = Live(plan.name, desired, fleet, Events(folder / "events.jsonl"))  # type: ignore[arg-type]
    passes = Passes()
    for module in (watching, contents, disk, loads, reuse, writes):
        module.asyncio = passes  # type: ignore[assignment]
    tasks = [start_named(name, start, live) for name, start in WATCHES.items()]
    await asyncio.sleep(SETTLE_S)
    passes.longest_s.clear()
    before, calls, CountedDesired.writes = asked(plan), fleet.calls, 0
    own, begin = psutil.Process(), time.monotonic()
    cpu = sum(own.cpu_times()[:2])
    await asyncio.sleep(seconds)
    cpu, took = sum(own.cpu_times()[:2]) - cpu, time.monotonic() - begin
    after = asked(plan)
    for task in tasks:
        if task.done():
            raise SystemExit(f"{task.get_name()} ended: {task.exception()}")
        task.cancel()
    if live.reasons or live.ill():
        raise SystemExit(f"the stubs are not well: {live.reasons} {live.ill()}")
    await asyncio.gather(*tasks, return_exceptions=True)
    named = {name: round(passes.longest_s[name], 4) for name in WATCHES if passes.longest_s[name]}
    return {
        "cpu": round(cpu / took, 4), "longest_pass_s": named,
        "http_a_second": {
            path: round((count - before.get(path, 0)) / took, 1) for path, count in after.items()
        },
        "actor_calls_a_second": round((fleet.calls - calls) / took, 1),
        "gcs_writes": CountedDesired.writes,
    }  # fmt: skip


def start_named(
    name: str, start: Callable[[Live], Awaitable[None]], live: Live
) -> asyncio.Task[None]:
    """One watch as a task that carries its name."""

    async def run() -> None:
        await start(live)

    return asyncio.create_task(run(), name=name)


def asked(plan: Plan) -> dict[str, int]:
    """How often the stubs were asked for each path so far."""
    with urlopen(f"{plan.endpoint}/stats", timeout=30) as response:
        counts: dict[str, int] = json.loads(response.read())
    counts.pop("/stats", None)
    return counts


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


if __name__ == "__main__":
    sys.exit(main())
