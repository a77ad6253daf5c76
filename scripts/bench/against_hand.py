"""What does orchestration add to the same processes started by hand?

    python scripts/bench/against_hand.py [--starts 3] [--rounds 10]

Peer: the script of `pdcache plan --shell`, which starts the servers in parallel. Start-up: seconds
from the command to the first token, one cluster at a time, in turns, proof excluded. Requests: both
clusters are up, one idles while the other is asked; TTFT of a hot turn of 1,114 tokens and the time
between 64 tokens. Limits of pdcache/by hand: start-up 1.1, requests 1.03; the proof 30 s. Writes
build/against_hand.json; exit 1 above a limit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from asking import PAGE, Prompts, ask, tpot_s, ttft_s
from stacks import PDCACHE, ROOT, Stack, by_hand, by_pdcache, environment

from pdcache.models import resolve_model

PROMPT, CACHED, TOKENS = 1114, 1088, 64
SETS = ("prefill.workers=1",)
LIMITS = {"start": 1.10, "hot turn": 1.03, "one stream": 1.03}
PROOF_LIMIT_S = 30.0
STARTS = ((by_hand, "by hand"), (by_pdcache, "pdcache"))

Times = dict[str, list[float]]


def main() -> int:
    """Measure, print, write; 0 when all are within their limits."""
    parser = argparse.ArgumentParser(description="pdcache against the same processes by hand.")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    own = parser.parse_args()
    prompts = Prompts(Path(resolve_model("smollm2-135m")), own.seed)
    times: dict[str, Times] = {"pdcache": defaultdict(list), "by hand": defaultdict(list)}
    with tempfile.TemporaryDirectory(prefix="pdc-bench-") as folder:
        home = Path(folder)
        for number in range(own.starts):
            # The first start of all finds nothing in the page cache; each begins in its turn.
            for start, name in STARTS if number % 2 else reversed(STARTS):
                with start(home / f"{name.replace(' ', '-')}-{number}", *SETS) as stack:
                    (first,) = ask(stack, [prompts.fresh(PAGE // 2)], 1, 0)
                    times[name]["start"].append(stack.started_in_s + ttft_s(first))
            print(f"start {number + 1} of {own.starts}", flush=True)
        with by_hand(home / "hand", *SETS) as hand, by_pdcache(home / "own", *SETS) as stack:
            for number in range(own.rounds):
                for one in (hand, stack) if number % 2 else (stack, hand):
                    requests(one, prompts, times[one.name])
            proof_s = proof(home / "own")
    return report(times, proof_s)


def requests(stack: Stack, prompts: Prompts, into: Times) -> None:
    """One hot turn and one stream."""
    prompt = prompts.fresh(PROMPT)
    ask(stack, [prompt[: CACHED + 1]], 1, 0)
    into["hot turn"].append(ttft_s(ask(stack, [prompt], 1, CACHED)[0]))
    into["one stream"].append(tpot_s(ask(stack, [prompts.fresh(PAGE)], TOKENS, 0)))


def proof(home: Path) -> float:
    """Seconds of `pdcache verify`."""
    begin = time.monotonic()
    subprocess.run([PDCACHE, "verify"], check=True, env=environment(home), cwd=ROOT,
                   capture_output=True)  # fmt: skip
    return time.monotonic() - begin


def report(times: dict[str, Times], proof_s: float) -> int:
    """Medians, spread, and ratios."""
    rows: dict[str, Any] = {"proof": {"seconds": proof_s, "limit": PROOF_LIMIT_S}}
    for what, limit in LIMITS.items():
        medians = {name: statistics.median(of[what]) for name, of in times.items()}
        rows[what] = {
            "seconds": medians,
            "spread": {name: [min(of[what]), max(of[what])] for name, of in times.items()},
            "ratio": medians["pdcache"] / medians["by hand"], "limit": limit,
        }  # fmt: skip
    print(json.dumps(rows, indent=1))
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    (build / "against_hand.json").write_text(json.dumps(rows, indent=1))
    missed = [what for what, row in rows.items() if row.get("ratio", row["seconds"]) > row["limit"]]
    print(f"missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
