"""What do the lane's functions in C take where vectors are narrower, beside torch's own?

    python scripts/bench/cpu_vectors.py [--rounds 5]

In a process each, for AVX2 (x86-64-v3) and for this processor: the functions compiled for it, torch
and oneDNN held to the same (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA), both on one core, in turns.
Sizes are SmolLM2-135M's, in float32. Peer: oneDNN's product from its own layout, and torch's
attention as the lane calls it where C cannot, for decode a request at a time. Limit: 1.1 of the
peer. Writes build/cpu_vectors.json; exit 1 above it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {
    "x86-64-v3": ("avx2", {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "native": ("", {}),
}
"""The processor's flag that a level wants, and the variables that hold torch to it."""

ROWS = (1, 8, 26, 1087)
WEIGHTS, OUTPUTS, INPUTS = 30, 3072, 576
HEADS, KV_HEADS, DIM = 9, 3, 64
EXTENDS = ((1088, 26), (0, 1087))
"""Cached tokens and new ones."""

LIMIT = 1.1

Pair = tuple[Callable[[], object], Callable[[], object]]


def main() -> int:
    """Measure each level in a process of its own, print, write; 0 when all limits are kept."""
    parser = argparse.ArgumentParser(description="The lane's functions in C, by vectors' width.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--level", help=argparse.SUPPRESS)
    own = parser.parse_args()
    if own.level:
        print(json.dumps(measure(own.level, own.rounds)))
        return 0
    has = Path("/proc/cpuinfo").read_text().split()
    tables = {}
    for level, (flag, held) in LEVELS.items():
        if flag and flag not in has:
            print(f"{level}: this processor has no {flag}")
            continue
        words = [sys.executable, __file__, "--level", level, "--rounds", str(own.rounds)]
        environment = os.environ | held | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=True, text=True)
        tables[level] = json.loads(done.stdout.splitlines()[-1])
        for name, row in tables[level].items():
            ours, peer = row["ms"], row["peer_ms"]
            print(f"{level:>10} {name:<22} {ours:8.2f} {peer:8.2f} {ours / peer:.2f}", flush=True)
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "cpu_vectors.json").write_text(json.dumps(tables, indent=1))
    missed = [
        f"{name} ({level})"
        for level, table in tables.items()
        for name, row in table.items()
        if row["ms"] / row["peer_ms"] > LIMIT
    ]
    print(f"missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


def measure(level: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Medians, least and most of all pairs on one core, in milliseconds."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from pdcache.sglang_cpu import native

    native.FLAGS = tuple(
        f"-march={level}" if flag.startswith("-march") else flag for flag in native.FLAGS
    )
    found: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    pairs = {**products(), **attention()}
    for number in range(rounds + 1):
        for name, pair in pairs.items():
            for of, times in zip(pair, found[name], strict=True):
                begin = time.thread_time()
                of()
                if number:
                    times.append(1e3 * (time.thread_time() - begin))
    return {
        name: {
            "ms": statistics.median(ours), "spread_ms": [min(ours), max(ours)],
            "peer_ms": statistics.median(peer), "peer_spread_ms": [min(peer), max(peer)],
        }
        for name, (ours, peer) in found.items()
    }  # fmt: skip


def products() -> dict[str, Pair]:
    """30 products of some rows: from upper halves, and from oneDNN's layout."""
    import torch

    from pdcache.sglang_cpu.linear import Packed, pack, packed_linear

    weights = [torch.randn(OUTPUTS, INPUTS).bfloat16().float() for _ in range(WEIGHTS)]
    ours = [pack(weight) for weight in weights]
    dense = [torch.ops.mkldnn._reorder_linear_weight(weight, 16) for weight in weights]
    peer = [Packed(OUTPUTS, torch.float32, weight, None) for weight in dense]

    def run(packed: list[Packed], rows: int) -> Callable[[], object]:
        x = torch.randn(rows, INPUTS)
        return lambda: [packed_linear(x, each) for each in packed]

    return {f"product of {rows} rows": (run(ours, rows), run(peer, rows)) for rows in ROWS}


def attention() -> dict[str, Pair]:
    """Of new tokens, and of one new token each of 1 and 8 requests."""
    import torch

    from pdcache.sglang_cpu.attention import (
        Suffix,
        _by_torch,
        decode_attention,
        plan_decode,
    )
    from pdcache.sglang_cpu.prefill import extend

    slots = 4096
    keys, values = torch.randn(2, slots, KV_HEADS, DIM)
    found: dict[str, Pair] = {}
    for cached, new in EXTENDS:
        query = torch.randn(new, HEADS, DIM)
        request = Suffix(new, torch.randperm(slots)[: cached + new].int())
        found[f"extend of {new} after {cached}"] = (
            lambda query=query, of=request: extend(
                query, keys, values, of.slots, scaling=None, causal=True
            ),
            lambda query=query, of=request: _by_torch(query, keys, values, of, None, True),
        )
    for count, length in ((1, 1087), (8, 275)):
        query = torch.randn(count, HEADS, DIM)
        table = torch.randperm(slots)[: count * length].view(count, length).int()
        step = plan_decode(table, torch.arange(count), torch.full((count,), length))
        requests = [Suffix(1, row.contiguous()) for row in table]
        found[f"decode of {count} x {length}"] = (
            lambda query=query, step=step: decode_attention(
                query, keys, values, step, scaling=None
            ),
            lambda query=query, requests=requests: [
                _by_torch(query[at : at + 1], keys, values, request, None, True)
                for at, request in enumerate(requests)
            ],
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
