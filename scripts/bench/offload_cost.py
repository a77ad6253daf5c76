"""What does offloading cost decode while it offloads?

    python scripts/bench/offload_cost.py [--rounds 8]

Peer: the same cluster in mode `prefill_only`, where decode writes nothing to L3. Both clusters are
up, one idles while the other is asked; they take turns. A round is four dialogues at once, each
of three answers of 64 to 160 tokens to prompts that no cache has seen, one after the other, so that
answers end, and are written, while others go on. TPOT is the median time between tokens over all
streams of a round; that decode did write is checked in the store. Limit: 1.03, the median of the
rounds' ratios. Writes build/offload_cost.json; exit 1 above it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path

from asking import PAGE, Prompts, request
from stacks import ROOT, Stack, by_pdcache

from pdcache.models import resolve_model
from pdcache.replay.client import GenerateClient

DIALOGUES, TURNS, SHORTEST, LONGEST = 4, 3, 64, 160
LIMIT = 1.03
SETS = ("prefill.workers=1", "decode.max_total_tokens=16384")


def main() -> int:
    """Measure, print, write; 0 within the limit."""
    parser = argparse.ArgumentParser(description="TPOT with and without offload of decode.")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    own = parser.parse_args()
    prompts = Prompts(Path(resolve_model("smollm2-135m")), own.seed)
    times: dict[str, list[float]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory(prefix="pdc-bench-") as folder:
        home = Path(folder)
        with (
            by_pdcache(home / "with", *SETS) as offloading,
            by_pdcache(home / "without", *SETS, "mode=prefill_only") as plain,
        ):
            for number in range(own.rounds + 1):  # the first one warms up
                peers = [("with", offloading), ("without", plain)]
                for name, stack in peers if number % 2 else reversed(peers):
                    taken = tpot_s(stack, prompts, random.Random(own.seed + number))
                    times[name] += [taken] if number else []
                print(f"round {number} of {own.rounds}", flush=True)
            keys = {name: stack.keys() for name, stack in peers}
    return report(times, keys)


def tpot_s(stack: Stack, prompts: Prompts, lengths: random.Random) -> float:
    """One round on one cluster; the same lengths for both."""
    sizes = [[lengths.randint(SHORTEST, LONGEST) for _ in range(TURNS)] for _ in range(DIALOGUES)]

    async def dialogue(client: GenerateClient, answers: list[int]) -> list[float]:
        gaps: list[float] = []
        for tokens in answers:
            answer = await client.generate(request(prompts.fresh(PAGE // 2), tokens))
            if answer.error is not None:
                raise RuntimeError(f"{stack.name}: {answer.error}")
            gaps += answer.gaps_s
        return gaps

    async def together() -> list[list[float]]:
        async with GenerateClient(stack.url, timeout_s=600) as client:
            return await asyncio.gather(*(dialogue(client, answers) for answers in sizes))

    return statistics.median(gap for gaps in asyncio.run(together()) for gap in gaps)


def report(times: dict[str, list[float]], keys: dict[str, int]) -> int:
    """Medians, spread, and the ratio of the rounds."""
    if keys["with"] <= keys["without"]:
        raise RuntimeError(f"decode wrote nothing: {keys} keys in the stores")
    ratios = [one / other for one, other in zip(times["with"], times["without"], strict=True)]
    row = {
        "seconds": {name: statistics.median(of) for name, of in times.items()},
        "spread": {name: [min(of), max(of)] for name, of in times.items()},
        "ratio": statistics.median(ratios), "ratios": [min(ratios), max(ratios)],
        "keys": keys, "limit": LIMIT,
    }  # fmt: skip
    print(json.dumps(row, indent=1))
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    (build / "offload_cost.json").write_text(json.dumps(row, indent=1))
    return 1 if row["ratio"] > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
