"""What does offloading cost decode while it offloads?

    python scripts/bench/offload_cost.py [--rounds 8]

Peer: the same cluster in mode `prefill_only`, where decode writes nothing to L3. Both clusters are
up, one idles while the other is asked; they take turns. A round is four dialogues at once, each
of three answers of 64 to 160 tokens to prompts that no cache has seen, one after the other, so that
answers end, and are written, while others go on. TPOT is an answer's mean time a token after the
first, of a round the median of its answers; single gaps are told by their 99th percentile. That
decode did write is checked in the store. Limit: 1.03, the median of the rounds' ratios of TPOT.
Writes build/offload_cost.json; exit 1 above it.
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
from typing import Any

from asking import PAGE, Prompts, request, tpot_s
from stacks import ROOT, Stack, by_pdcache

from pdcache.models import resolve_model
from pdcache.replay.client import Answer, GenerateClient

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
    times: dict[str, dict[str, list[float]]] = {
        "with": defaultdict(list), "without": defaultdict(list),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="pdc-bench-") as folder:
        home = Path(folder)
        with (
            by_pdcache(home / "with", *SETS) as offloading,
            by_pdcache(home / "without", *SETS, "mode=prefill_only") as plain,
        ):
            for number in range(own.rounds + 1):  # the first one warms up
                peers = [("with", offloading), ("without", plain)]
                for name, stack in peers if number % 2 else reversed(peers):
                    answers = one_round(stack, prompts, random.Random(own.seed + number))
                    if number:
                        note(answers, times[name])
                print(f"round {number} of {own.rounds}", flush=True)
            keys = {name: stack.keys() for name, stack in peers}
    return report(times, keys)


def one_round(stack: Stack, prompts: Prompts, lengths: random.Random) -> list[Answer]:
    """One round on one cluster; the same lengths for both."""
    sizes = [[lengths.randint(SHORTEST, LONGEST) for _ in range(TURNS)] for _ in range(DIALOGUES)]

    async def dialogue(client: GenerateClient, tokens_of_turns: list[int]) -> list[Answer]:
        answers = []
        for tokens in tokens_of_turns:
            answer = await client.generate(request(prompts.fresh(PAGE // 2), tokens))
            if answer.error is not None:
                raise RuntimeError(f"{stack.name}: {answer.error}")
            answers.append(answer)
        return answers

    async def together() -> list[Answer]:
        async with GenerateClient(stack.url, timeout_s=600) as client:
            dialogues = await asyncio.gather(*(dialogue(client, turns) for turns in sizes))
        return [answer for answers in dialogues for answer in answers]

    return asyncio.run(together())


def note(answers: list[Answer], into: dict[str, list[float]]) -> None:
    """What a round says."""
    into["tpot_s"].append(tpot_s(answers))
    gaps = sorted(gap for own in answers for gap in own.gaps_s)
    into["gap_p99_s"].append(gaps[len(gaps) * 99 // 100])


def report(times: dict[str, dict[str, list[float]]], keys: dict[str, int]) -> int:
    """Medians, spread, and the ratios of the rounds."""
    if keys["with"] <= keys["without"]:
        raise RuntimeError(f"decode wrote nothing: {keys} keys in the stores")
    rows: dict[str, Any] = {"keys": keys, "limit": LIMIT}
    for what in ("tpot_s", "gap_p99_s"):
        with_, without = times["with"][what], times["without"][what]
        ratios = [one / other for one, other in zip(with_, without, strict=True)]
        rows[what] = {
            "median": {name: statistics.median(of[what]) for name, of in times.items()},
            "spread": {name: [min(of[what]), max(of[what])] for name, of in times.items()},
            "ratio": statistics.median(ratios), "ratios": [min(ratios), max(ratios)],
        }  # fmt: skip
    print(json.dumps(rows, indent=1))
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    (build / "offload_cost.json").write_text(json.dumps(rows, indent=1))
    return 1 if rows["tpot_s"]["ratio"] > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
