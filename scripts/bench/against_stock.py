"""How long does a turn take on the CPU lane, against stock SGLang started by hand?

    python scripts/bench/against_stock.py [--rounds 5]

Peer: the same processes (master, holder, one prefill, one decode, smg) by hand with what SGLang
brings: `torch_native` attention in bfloat16. Both clusters are up, one idles while the other is
asked; they take turns. Limit: `transformers` in float32 with one thread, on the same prompts.
Asked: a cold prompt of 1,087 tokens; a turn of 1,114 tokens of which 1,088 are cached, hot and
after a flush (L3 only); 64 tokens of one stream, and of 8 streams at once.
Limits of ours/stock: cold 0.62, turn hot and from L3 0.30, one stream 0.65, eight 0.35; of
ours/transformers: turn 1.5, one stream 0.9. Writes build/against_stock.json; exit 1 above a limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from stacks import ROOT, Stack, by_hand, by_pdcache
from transformers_peer import TransformersPeer

from pdcache.models import resolve_model
from pdcache.replay.client import Answer, GenerateClient, GenerateRequest
from pdcache.sglang_cpu import STOCK_LAYERS_ENV

PAGE = 64
COLD, PROMPT = 1087, 1114
CACHED = 1088
TOKENS, STREAMS = 64, 8
SETS = ("prefill.workers=1", "prefill.max_total_tokens=16384", "decode.max_total_tokens=16384")
STOCK = ("model.dtype=bfloat16", "prefill.args.attention_backend=torch_native",
         "decode.args.attention_backend=torch_native")  # fmt: skip
STOCK_ENV = {STOCK_LAYERS_ENV: "1"}
OF_STOCK = {"cold": 0.62, "hot": 0.30, "from L3": 0.30, "one stream": 0.65, "eight streams": 0.35}
OF_TRANSFORMERS = {"cold": 1.0, "hot": 1.5, "from L3": 1.5, "one stream": 0.9}

Times = dict[str, list[float]]


async def ask(stack: Stack, prompts: list[list[int]], tokens: int) -> list[Answer]:
    """All prompts at once."""
    async with GenerateClient(stack.url, timeout_s=600) as client:
        answers = await asyncio.gather(
            *(client.generate(GenerateRequest(prompt, tokens)) for prompt in prompts)
        )
    for answer in answers:
        if answer.error is not None:
            raise RuntimeError(f"{stack.name}: {answer.error}")
    return list(answers)


def measure(stack: Stack, ids: random.Random, vocabulary: int, into: Times) -> None:
    """One round of all questions on one cluster."""

    def fresh(length: int) -> list[int]:
        return [ids.randrange(100, vocabulary) for _ in range(length)]

    def asked(prompts: list[list[int]], tokens: int, cached: int) -> list[Answer]:
        answers = asyncio.run(ask(stack, prompts, tokens))
        for answer in answers:
            if answer.cached.total != cached:
                raise RuntimeError(f"{stack.name}: {answer.cached} instead of {cached} cached")
        return answers

    def ttft(answer: Answer) -> float:
        assert answer.ttft_s is not None
        return answer.ttft_s

    (cold,) = asked([fresh(COLD)], 1, 0)
    into["cold"].append(ttft(cold))
    prompt = fresh(PROMPT)
    asked([prompt[: CACHED + 1]], 1, 0)
    (hot,) = asked([prompt], 1, CACHED)
    into["hot"].append(ttft(hot))
    stack.flush()
    (read,) = asked([prompt], 1, CACHED)
    into["from L3"].append(ttft(read))
    (one,) = asked([fresh(COLD)], TOKENS, 0)
    into["one stream"].append(statistics.median(one.gaps_s))
    several = asked([fresh(PAGE) for _ in range(STREAMS)], TOKENS, 0)
    into["eight streams"].append(statistics.median(gap for own in several for gap in own.gaps_s))
    stack.flush()


def main() -> int:
    """Measure, print, write; 0 when all are within their limits."""
    parser = argparse.ArgumentParser(description="The CPU lane against stock SGLang.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    own = parser.parse_args()
    ids = random.Random(own.seed)
    times: dict[str, Times] = {name: defaultdict(list) for name in ("pdcache", "stock", "limit")}
    model = Path(resolve_model("smollm2-135m"))
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    peer = TransformersPeer(model)
    with tempfile.TemporaryDirectory(prefix="pdc-bench-") as folder:
        home = Path(folder)
        with (
            by_hand(home / "stock", *SETS, *STOCK, env=STOCK_ENV, name="stock") as stock,
            by_pdcache(home / "own", *SETS) as own_stack,
        ):
            for number in range(own.rounds + 1):
                taken: Times = defaultdict(list)  # of the first round, which warms up
                for stack, name in ((stock, "stock"), (own_stack, "pdcache")):
                    measure(stack, ids, vocabulary, times[name] if number else taken)
                limits(peer, ids, vocabulary, times["limit"] if number else taken)
                print(f"round {number} of {own.rounds}", flush=True)
    return report(times)


def limits(peer: TransformersPeer, ids: random.Random, vocabulary: int, into: Times) -> None:
    """The same questions to `transformers`, which knows no second request at a time."""
    prompt = [ids.randrange(100, vocabulary) for _ in range(PROMPT)]
    into["cold"].append(peer.turn(prompt[:COLD], 0, 1)[0])
    ttft, gaps = peer.turn(prompt, CACHED, TOKENS)
    into["hot"].append(ttft)
    into["from L3"].append(ttft)
    into["one stream"].append(statistics.median(gaps))


def report(times: dict[str, Times]) -> int:
    """Medians, spread, and ratios."""
    rows = {}
    for what, limit in OF_STOCK.items():
        medians = {name: statistics.median(of[what]) for name, of in times.items() if of[what]}
        row = {
            "seconds": medians,
            "spread": {name: [min(of[what]), max(of[what])]
                       for name, of in times.items() if of[what]},
            "of stock": medians["pdcache"] / medians["stock"], "limit of stock": limit,
        }  # fmt: skip
        if what in OF_TRANSFORMERS:
            row["of transformers"] = medians["pdcache"] / medians["limit"]
            row["limit of transformers"] = OF_TRANSFORMERS[what]
        rows[what] = row
    print(json.dumps(rows, indent=1))
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    (build / "against_stock.json").write_text(json.dumps(rows, indent=1))
    missed = [
        what for what, row in rows.items()
        for peer in ("stock", "transformers")
        if row.get(f"of {peer}", 0) > row.get(f"limit of {peer}", 0)
    ]  # fmt: skip
    print(f"missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
