"""Run the benches one after the other, and say which kept its limits.

    python scripts/bench/all.py [NAME]...

An hour on 2 cores, which should have nothing else to do. What a bench prints goes into
build/bench/NAME.log, its numbers where its own head says. Exit 1 when a limit was missed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHES = (
    "planning", "controller", "cpu_tokens", "cpu_attention", "cpu_vectors", "store_path",
    "start_up", "against_hand", "against_stock", "offload_cost", "client_vs_aiperf",
    "client_memory",
)  # fmt: skip


def main() -> int:
    """Run them; 0 when all kept their limits."""
    parser = argparse.ArgumentParser(description="All benches, or those named.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(BENCHES)}")
    names = parser.parse_args().names or BENCHES
    if unknown := sorted({*names} - {*BENCHES}):
        parser.error(f"no bench {unknown[0]!r}; there are {', '.join(BENCHES)}")
    logs = ROOT / "build" / "bench"
    logs.mkdir(parents=True, exist_ok=True)
    missed = 0
    for name in names:
        print(f"{name} ...", end=" ", flush=True)
        begin = time.monotonic()
        with (logs / f"{name}.log").open("w") as log:
            done = subprocess.run(
                [sys.executable, str(Path(__file__).with_name(f"{name}.py"))],
                stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, check=False,
            )  # fmt: skip
        missed += done.returncode != 0
        said = "limits kept" if done.returncode == 0 else "LIMIT MISSED, or failed: see its log"
        print(f"{said} ({time.monotonic() - begin:.0f} s, build/bench/{name}.log)", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
