"""What does the way from a worker's host pool to L3 and back cost, and where is it lost?

    python scripts/bench/store_path.py [--mb 100] [--rounds 9] [--only paths ways pages calls]

SGLang's own `MooncakeStore` (`batch_set_v1`, `batch_get_v1`) over its own host pool, in batches of
128 pages as its cache controller makes them, with a real master and a holder process. Peers, with
the same bytes and objects, in the same process: Mooncake without SGLang, one TCP connection on
loopback, and memcpy. Every case has a store and a client of its own, and they take turns in rounds,
so that what else the machine does hits all. Limit: over TCP to a holder, as pdcache plans it,
SGLang's backend writes and reads at least 0.8 times the bytes per second of Mooncake without it.
Writes build/store_path.json with median, quartiles and ends; exit 1 below the limit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdcache.sglang_cpu import pythonpath_folder, worker_environment

if TYPE_CHECKING:
    from store_client import Case

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 0.8
WARMUP = 2
MOVES = ("sglang_write", "sglang_read", "raw_write", "raw_read", "memcpy", "socket")
"""Steps that move all bytes, and have a bandwidth."""

TABLES = ("paths", "ways", "pages", "calls")


def main() -> int:
    """Measure, print, write; 0 when the limit is kept."""
    parser = argparse.ArgumentParser(description="The way to L3 and back.")
    parser.add_argument("--mb", type=float, default=100.0, help="bytes of a case, written and read")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "store_path.json")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    tables = {
        name: measure(cases, given.mb * 1e6, given.rounds)
        for name, cases in planned().items()
        if name in given.only
    }
    result = {
        "schema": 1, "question": (__doc__ or "").splitlines()[0],
        "peer": "MooncakeDistributedStore, one TCP connection, memcpy", "limit": LIMIT,
        "mb": given.mb, "rounds": given.rounds, "tables": tables,
    }  # fmt: skip
    planned_way = [own for own in tables.get("paths", []) if own["case"]["way"] == "holder"]
    result["kept"] = all(min(own["of_raw"].values()) >= LIMIT for own in planned_way)
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if result["kept"] else 1


def planned() -> dict[str, list[Case]]:
    """The cases of each table."""
    import torch
    from store_client import Case, Shape
    from store_stack import Way

    small = Shape("smollm2-135m float32", 30, 3, 64, torch.float32)
    large = Shape("qwen3-8b bfloat16", 36, 8, 128, torch.bfloat16)
    holder, shared = Way("holder"), Way("shared memory", "shared_memory")
    pool = {"MC_TCP_ENABLE_CONNECTION_POOL": "1"}
    chunks = {"MC_TCP_SLICE_SIZE": str(1 << 20)}
    ways = [
        holder,
        Way("holder, kept connections", env=pool),
        Way("holder, chunks of 1 MiB", env=chunks),
        Way("holder, 16 kept, 1 MiB", env={**pool, **chunks, "MC_TCP_LANES_PER_PEER": "16"}),
        Way("client's own segment", "client"),
        Way("client's own segment over TCP", "client", {"MC_STORE_MEMCPY": "0"}),
        shared,
    ]
    both = [Case(own, small) for own in (holder, shared)]
    return {
        "paths": [Case(way, shape) for shape in (small, large) for way in (holder, shared)],
        "ways": [Case(way, small) for way in ways],
        "pages": [
            *(replace(own, page_size=size) for own in both for size in (16, 64, 128)),
            *(Case(holder, small, layout=layout) for layout in ("page_first", "page_head")),
        ],
        "calls": [replace(own, batch=batch) for own in both for batch in (1, 4, 16)],
    }


def measure(cases: list[Case], size_bytes: float, rounds: int) -> list[dict[str, Any]]:
    """A row a case, all of them measured in turns."""
    with ExitStack() as running, tempfile.TemporaryDirectory() as temp:
        clients = []
        for number, case in enumerate(cases):
            pages = max(1, round(size_bytes / case.shape.token_bytes / case.page_size))
            folder = Path(temp) / str(number)
            clients.append((case, pages, running.enter_context(client(case, pages, folder))))
        seen: list[list[dict[str, float]]] = [[] for _ in cases]
        for number in range(WARMUP + rounds):
            for own, (_, _, pipe) in zip(seen, clients, strict=True):
                pipe.send("forth" if number % 2 else "back")
                own.append(pipe.recv())
        rows = [row(case, pages, own) for (case, pages, _), own in zip(clients, seen, strict=True)]
    for shown in rows:
        print(json.dumps({key: shown[key] for key in ("case", "gb_per_s", "cpu_s_per_gb")}))
    return rows


@contextmanager
def client(case: Case, pages: int, folder: Path) -> Iterator[Connection]:
    """A store and a forked client of it, which has SGLang imported already."""
    from store_client import serve
    from store_stack import running_store

    context = multiprocessing.get_context("fork")
    size = int(2.5 * pages * case.page_size * case.shape.token_bytes) + (64 << 20)
    with running_store(case.way, size, folder) as stack:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(case, stack, pages, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            assert ours.recv() == "ready"
            yield ours
            ours.send(None)
            process.join(10.0)
        finally:
            process.kill()
            process.join()


def row(case: Case, pages: int, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """One case: bandwidths, milliseconds of each step, CPU, SGLang against its peers."""
    size = pages * case.page_size * case.shape.token_bytes
    seen = rounds[WARMUP:]
    rates = {name: [size / own[name] / 1e9 for own in seen] for name in MOVES}
    steps = [name for name in seen[0] if not name.endswith("_cpu")]

    def ratio(mine: str, peer: str) -> float:
        return statistics.median(own[peer] / own[mine] for own in seen)

    return {
        "case": {
            "way": case.way.name, "env": dict(case.way.env), "model": case.shape.name,
            "page_size": case.page_size, "layout": case.layout, "pages_per_call": case.batch,
            "pages": pages, "object_bytes": case.page_size * case.shape.token_bytes // 2,
        },
        "gb_per_s": {name: spread(values) for name, values in rates.items()},
        # Into memory of the store that nothing was in yet.
        "first_write_gb_per_s": size / rounds[0]["sglang_write"] / 1e9,
        "ms": {name: spread([1e3 * own[name] for own in seen]) for name in steps},
        "cpu_s_per_gb": {
            who: statistics.mean(own[f"{who}_cpu"] for own in seen) / size * 1e9
            for who in ("client", "holder")
        },
        "of_raw": {what: ratio(f"sglang_{what}", f"raw_{what}") for what in ("write", "read")},
        "of_memcpy": {what: ratio(f"sglang_{what}", "memcpy") for what in ("write", "read")},
    }  # fmt: skip


def spread(values: list[float]) -> dict[str, float]:
    """Median, quartiles, and both ends."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"min": min(values), "q1": low, "median": median, "q3": high, "max": max(values)}


def as_a_worker() -> None:
    """Start again with the environment that pdcache gives a worker on a machine without a GPU."""
    folder = str(pythonpath_folder())
    if folder not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        path = os.pathsep.join((folder, str(ROOT)))
        env = {**os.environ, **worker_environment(), "PYTHONPATH": path}
        os.execve(sys.executable, [sys.executable, *sys.argv], env)
    from sglang.srt.plugins import load_plugins

    load_plugins()


if __name__ == "__main__":
    as_a_worker()
    sys.exit(main())
