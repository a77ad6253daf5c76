"""How long does a turn take on the CPU lane, against stock SGLang started by hand?

    python scripts/bench/against_stock.py [--rounds 5] [--dtype float32]

Peer: the same processes (master, holder, one prefill, one decode, smg) by hand, with SGLang's own
layers, scheduler and `torch_native` attention in bfloat16; what the CPU lane needs to run at all
(copies between tiers, host memory that is not pinned) is in it too. Each round starts one cluster,
asks it, ends it, and starts the other. Stock's servers have one thread, as its script has it; the
lane's long steps have the core that is free as well. Limit: `transformers` in float32 with one
thread, on the same lengths. Asked: cold prompts of 1,087 tokens, two a round after a second of rest
and two right after those, while they are written to L3; turns of 1,114 tokens of which 1,088 are
cached, hot and after a flush (L3 only), four a round; 64 tokens of one stream; and 192 of 8 streams
at once after 64 each, of which those count that come while all 8 stream. Limits of pdcache/stock:
cold 0.62, turn hot and from L3 0.30, one stream 0.65, eight 0.35; of pdcache/transformers: cold 1,
turn 1.5, one stream 0.9. Writes build/against_stock.json; exit 1 above a limit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from asking import PAGE, Prompts, ask, tpot_s, tpot_together_s, ttft_s
from stacks import ROOT, Stack, by_pdcache, stock_by_hand
from transformers_peer import TransformersPeer

from pdcache.models import resolve_model

COLD, CACHED, NEW = 1087, 1088, 26
COLD_A_ROUND, TURNS_A_ROUND = 2, 4
REST_S = 1.0
"""What was asked before is written to L3 in less."""

TOKENS, STREAMS, TOKENS_TOGETHER = 64, 8, 192
SETS = ("prefill.workers=1", "prefill.max_total_tokens=16384", "decode.max_total_tokens=16384")
OF_STOCK = {
    "cold": 0.62, "next cold": 0.62, "hot": 0.30, "from L3": 0.30, "one stream": 0.65,
    "eight streams": 0.35,
}  # fmt: skip
OF_TRANSFORMERS = {"cold": 1.0, "hot": 1.5, "from L3": 1.5, "one stream": 0.9}

Times = dict[str, list[float]]


def main() -> int:
    """Measure, print, write; 0 when all are within their limits."""
    parser = argparse.ArgumentParser(description="The CPU lane against stock SGLang.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seed", type=int, default=0)
    own = parser.parse_args()
    model = Path(resolve_model("smollm2-135m"))
    prompts, peer = Prompts(model, own.seed), TransformersPeer(model)
    times: dict[str, Times] = {}
    with tempfile.TemporaryDirectory(prefix="pdc-bench-") as folder:
        home = Path(folder)
        lane_sets = (*SETS, f"model.dtype={own.dtype}")
        for number in range(1, own.rounds + 1):
            taken = {name: defaultdict(list) for name in ("stock", "pdcache", "transformers")}
            with stock_by_hand(home / f"stock-{number}", *SETS) as stock:
                turns(stock, prompts, taken["stock"])
            with by_pdcache(home / f"own-{number}", *lane_sets) as lane:
                turns(lane, prompts, taken["pdcache"])
            alone(peer, prompts, taken["transformers"])
            for name, rows in taken.items():
                for what, seconds in rows.items():
                    times.setdefault(name, defaultdict(list))[what] += seconds
            print(f"round {number} of {own.rounds}", flush=True)
    return report(times)


def turns(stack: Stack, prompts: Prompts, into: Times) -> None:
    """One round of all questions on one cluster, after one of each length that is not kept."""
    for length in (COLD, NEW, PAGE):
        ask(stack, [prompts.fresh(length)], 2, 0)
    for _ in range(COLD_A_ROUND):
        time.sleep(REST_S)
        for what in ("cold", "next cold"):
            into[what].append(ttft_s(ask(stack, [prompts.fresh(COLD)], 1, 0)[0]))
    prefix = prompts.fresh(CACHED)
    ask(stack, [[*prefix, 100]], 1, 0)
    for _ in range(TURNS_A_ROUND):
        into["hot"].append(ttft_s(ask(stack, [prefix + prompts.fresh(NEW)], 1, CACHED)[0]))
    for _ in range(TURNS_A_ROUND):
        stack.flush()
        into["from L3"].append(ttft_s(ask(stack, [prefix + prompts.fresh(NEW)], 1, CACHED)[0]))
    into["one stream"].append(tpot_s(ask(stack, [prompts.fresh(COLD)], TOKENS, 0)))
    several = [prompts.fresh(PAGE) for _ in range(STREAMS)]
    into["eight streams"].append(tpot_together_s(ask(stack, several, TOKENS_TOGETHER, 0)))
    stack.flush()


def alone(peer: TransformersPeer, prompts: Prompts, into: Times) -> None:
    """The same questions to `transformers`, which takes one request at a time."""
    into["cold"] += [peer.turn(prompts.fresh(COLD), 1)[0] for _ in range(COLD_A_ROUND - 1)]
    ttft, gaps = peer.turn(prompts.fresh(COLD), TOKENS)
    into["cold"].append(ttft)
    into["one stream"].append(statistics.fmean(gaps))
    hits = peer.hits(prompts.fresh(CACHED), [prompts.fresh(NEW) for _ in range(TURNS_A_ROUND)])
    into["hot"] += hits
    into["from L3"] += hits


def report(times: dict[str, Times]) -> int:
    """Medians, spread, and ratios."""
    rows: dict[str, dict[str, Any]] = {}
    missed = []
    for what in OF_STOCK:
        seconds = {name: of[what] for name, of in times.items() if of[what]}
        medians = {name: statistics.median(of) for name, of in seconds.items()}
        rows[what] = {
            "seconds": medians,
            "spread": {name: [min(of), max(of)] for name, of in seconds.items()},
        }
        for peer, limits in (("stock", OF_STOCK), ("transformers", OF_TRANSFORMERS)):
            if what in limits:
                ratio = medians["pdcache"] / medians[peer]
                rows[what][f"of {peer}"] = {"ratio": ratio, "limit": limits[what]}
                missed += [f"{what} of {peer}"] if ratio > limits[what] else []
    print(json.dumps(rows, indent=1))
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    (build / "against_stock.json").write_text(json.dumps(rows, indent=1))
    print(f"missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
