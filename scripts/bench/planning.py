"""How long do check and plan of a topology with 1,000 workers take?

    python scripts/bench/planning.py [--workers 1000] [--repeats 5]

Three shapes: servers of one GPU, eight on a node; servers of eight GPUs, each with its node;
servers that span two nodes. Ports are chosen, and a holder of the store is on every node, as by
default. Timed is what `pdcache check` and `pdcache plan` do once their modules are imported: load,
gather facts, check, plan. Nothing is started.
Peer: the same with a tenth of the workers; what grows with their square shows as a ratio far above
ten. Limit: 2 s, the median of the repeats, for every shape, on one core. Seconds of CPU stand
beside the seconds of the wall, for a machine that does other things too. Writes
build/planning.json; exit 1 above the limit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pdcache.checks import check
from pdcache.cli.gather import gather
from pdcache.plan import build_plan
from pdcache.topology import load_topology

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 2.0
TOPOLOGY = """
name: many
mode: full_offload
device: cuda
model: {{path: Qwen/Qwen3-32B}}
page_size: 64
hicache: {{size_gb: 20, io_backend: direct, layout: page_first_direct}}
nodes: {{count: {nodes}, gpus: 8, memory_gb: 2000}}
prefill: {{workers: {half}, tp: {tp}, nodes: {span}}}
decode: {{workers: {half}, tp: {tp}, nodes: {span}}}
store: {{backend: mooncake, segment_gb: 100}}
network: {{private: true}}
"""
SHAPES = {
    "one GPU, eight on a node": {"tp": 1, "span": 1, "on_node": 8},
    "eight GPUs, one on a node": {"tp": 8, "span": 1, "on_node": 1},
    "eight GPUs, half of them on each of two nodes": {"tp": 8, "span": 2, "on_node": 1},
}


def main() -> int:
    """Measure, print, write; 0 when every shape is within the limit."""
    parser = argparse.ArgumentParser(description="Time of check and plan of many workers.")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    shapes = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in SHAPES.items():
            many = measure(Path(folder), given.workers, given.repeats, **shape)
            few = measure(Path(folder), given.workers // 10, given.repeats, **shape)
            ratio = many["cpu_s"]["median"] / few["cpu_s"]["median"]
            shapes[name] = {"many": many, "few": few, "cpu_ratio": ratio}
    kept = all(shape["many"]["wall_s"]["median"] <= LIMIT_S for shape in shapes.values())
    result = {
        "schema": 1, "workers": given.workers, "repeats": given.repeats, "shapes": shapes,
        "limit_s": LIMIT_S, "kept": kept,
    }  # fmt: skip
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "planning.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    return 0 if kept else 1


def measure(
    folder: Path, workers: int, repeats: int, *, tp: int, span: int, on_node: int
) -> dict[str, Any]:
    """Seconds of each step, of CPU and of the wall; an error of a check ends the benchmark."""
    file = folder / "many.yaml"
    file.write_text(
        TOPOLOGY.format(half=workers // 2, tp=tp, span=span, nodes=-(-workers // on_node))
    )
    rows = [once(file) for _ in range(repeats)]
    return {
        "processes": rows[0].pop("processes"),
        **{name: spread([row[name] for row in rows]) for name in rows[0]},
    }


def once(file: Path) -> dict[str, float]:
    """One run from the file to the plan."""
    wall, cpu = time.perf_counter(), time.process_time()
    topology = load_topology(file, ())
    facts = gather(topology, port_free=lambda port: True)
    loaded = time.process_time()
    findings = check(topology, facts)
    checked = time.process_time()
    plan = build_plan(topology, facts)
    planned, end = time.process_time(), time.perf_counter()
    errors = [finding.message for finding in findings if finding.severity == "error"]
    if errors:
        raise SystemExit(f"the topology of the benchmark is wrong: {errors}")
    return {
        "processes": len(plan.processes), "wall_s": end - wall, "cpu_s": planned - cpu,
        "load_cpu_s": loaded - cpu, "check_cpu_s": checked - loaded,
        "plan_cpu_s": planned - checked,
    }  # fmt: skip


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


if __name__ == "__main__":
    sys.exit(main())
