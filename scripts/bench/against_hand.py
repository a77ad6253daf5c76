"""What does orchestration add to the same processes started by hand?

    python scripts/bench/against_hand.py [--starts 3] [--rounds 6]

Peer: the script of `pdcache plan --shell`, which starts the servers in parallel; for the start also
that script with stock SGLang. One cluster is up at a time, in turns, so that what watches over the
one takes nothing from the other. Servers of two starts differ, so requests have a second peer: the
same servers of pdcache's cluster while Ray and the controller are stopped (SIGSTOP), in turns.
Start-up: seconds from the command to the first token, proof excluded. Requests: TTFT of hot turns
of 1,114 tokens, and the time a token of 64. A ratio is the median over starts, each that of its
medians. Limits of pdcache/peer: start-up 1.1, requests 1.03; the proof 30 s. Writes
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asking import PAGE, Prompts, ask, tpot_s, ttft_s
from stacks import (
    PDCACHE,
    ROOT,
    Stack,
    by_hand,
    by_pdcache,
    environment,
    orchestration_stopped,
    stock_by_hand,
)

from pdcache.models import resolve_model

PROMPT, CACHED, TOKENS = 1114, 1088, 64
HOT_TURNS, STREAMS = 5, 2
SETS = ("prefill.workers=1",)
LIMITS = {
    ("start", "stock by hand"): 1.10, ("start", "by hand"): 1.10, ("hot turn", "by hand"): 1.03,
    ("one stream", "by hand"): 1.03, ("hot turn", "stopped"): 1.03,
    ("one stream", "stopped"): 1.03,
}  # fmt: skip
PROOF_LIMIT_S = 30.0
STARTS = ((stock_by_hand, "stock by hand"), (by_hand, "by hand"), (by_pdcache, "pdcache"))

Times = dict[str, list[float]]


def main() -> int:
    """Measure, print, write; 0 when all are within their limits."""
    parser = argparse.ArgumentParser(description="pdcache against the same processes by hand.")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    own = parser.parse_args()
    prompts = Prompts(Path(resolve_model("smollm2-135m")), own.seed)
    pairs: list[dict[str, Times]] = []
    with tempfile.TemporaryDirectory(prefix="pdc-bench-") as folder:
        for number in range(own.starts):
            pairs.append({})
            # The first start of all finds nothing in the page cache; each begins in its turn.
            for start, name in STARTS if number % 2 else reversed(STARTS):
                home = Path(folder) / f"{name.replace(' ', '-')}-{number}"
                times = pairs[-1][name] = defaultdict(list)
                with start(home, *SETS) as stack:
                    (first,) = ask(stack, [prompts.fresh(PAGE // 2)], 1, 0)
                    times["start"].append(stack.started_in_s + ttft_s(first))
                    if name == "stock by hand":
                        continue
                    stopped = home if name == "pdcache" else None
                    for number_of_round in range(own.rounds + 1):  # the first one warms up
                        taken = one_round(stack, prompts, stopped, number_of_round % 2 == 0)
                        for peer, seconds in taken.items() if number_of_round else ():
                            for what, of in seconds.items():
                                pairs[-1].setdefault(peer, defaultdict(list))[what] += of
                    if name == "pdcache":
                        times["proof"].append(proof(home))
            print(f"start {number + 1} of {own.starts}", flush=True)
    return report(pairs)


def one_round(
    stack: Stack, prompts: Prompts, stopped: Path | None, running_first: bool
) -> dict[str, Times]:
    """Requests to a cluster, and to the same one with the orchestration of that home stopped."""
    cached = prompts.fresh(CACHED)
    ask(stack, [[*cached, *prompts.fresh(1)]], 1, 0)
    taken: dict[str, Times] = {}
    for peer in (stack.name, "stopped") if running_first else ("stopped", stack.name):
        if peer == stack.name:
            taken[peer] = requests(stack, prompts, cached)
        elif stopped is not None:
            with orchestration_stopped(stopped):
                taken[peer] = requests(stack, prompts, cached)
    return taken


def requests(stack: Stack, prompts: Prompts, cached: list[int]) -> Times:
    """Hot turns, then streams, one after the other."""
    turns = [[*cached, *prompts.fresh(PROMPT - CACHED)] for _ in range(HOT_TURNS)]
    streams = [prompts.fresh(PAGE) for _ in range(STREAMS)]
    return {
        "hot turn": [ttft_s(ask(stack, [turn], 1, CACHED)[0]) for turn in turns],
        "one stream": [tpot_s(ask(stack, [prompt], TOKENS, 0)) for prompt in streams],
    }


def proof(home: Path) -> float:
    """Seconds of `pdcache verify`."""
    begin = time.monotonic()
    subprocess.run([PDCACHE, "verify"], check=True, env=environment(home), cwd=ROOT,
                   capture_output=True)  # fmt: skip
    return time.monotonic() - begin


def report(pairs: Sequence[dict[str, Times]]) -> int:
    """Medians, spread, and ratios."""
    proofs = [one for pair in pairs for one in pair["pdcache"]["proof"]]
    rows: dict[str, Any] = {
        "proof": {"seconds": statistics.median(proofs), "spread": [min(proofs), max(proofs)],
                  "limit": PROOF_LIMIT_S}
    }  # fmt: skip
    for (what, peer), limit in LIMITS.items():
        seconds = {
            name: [one for pair in pairs for one in pair[name][what]] for name in (peer, "pdcache")
        }
        ratios = [
            statistics.median(pair["pdcache"][what]) / statistics.median(pair[peer][what])
            for pair in pairs
        ]
        rows[f"{what}, {peer}"] = {
            "seconds": {name: statistics.median(of) for name, of in seconds.items()},
            "spread": {name: [min(of), max(of)] for name, of in seconds.items()},
            "ratio": statistics.median(ratios), "ratios": [min(ratios), max(ratios)],
            "limit": limit,
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
