"""What does offloading cost decode while it offloads?

    python scripts/bench/offload_cost.py [--starts 3] [--rounds 6]

Peers: the same servers, told to offload nothing for as long (`offload_switch`); and a cluster in
mode `prefill_only`, where decode has nothing to offload with. Two servers of the same plan differ
from start to start, so the second peer is a bound for all starts together only. Both clusters are
up, one idles while the other is asked; the three take turns. A round is four dialogues at once,
each of three answers of 64 to 160 tokens to prompts that no cache has seen, one after the other, so
that answers end, and are written, while others go on. TPOT is an answer's mean time a token after
the first, of a round the median of its answers; single gaps are told by their 99th percentile. That
decode wrote or did not is checked in the store. Limit: 1.03, the median of the rounds' ratios of
TPOT, for either peer. Writes build/offload_cost.json; exit 1 above it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asking import PAGE, Prompts, request, tpot_s
from offload_switch.offload_switch import FILE_ENV
from stacks import ROOT, Stack, by_pdcache

from pdcache.models import resolve_model
from pdcache.replay.client import Answer, GenerateClient

DIALOGUES, TURNS, SHORTEST, LONGEST = 4, 3, 64, 160
LIMIT = 1.03
NAMES = ("with", "switched off", "prefill_only")
SETTLE_S = 1.0
SWITCH = Path(__file__).with_name("offload_switch")
SETS = ("prefill.workers=1", "decode.max_total_tokens=16384")


def main() -> int:
    """Measure, print, write; 0 within the limit."""
    parser = argparse.ArgumentParser(description="TPOT with and without offload of decode.")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    own = parser.parse_args()
    prompts = Prompts(Path(resolve_model("smollm2-135m")), own.seed)
    times: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in NAMES}
    with tempfile.TemporaryDirectory(prefix="pdc-bench-") as folder:
        for start in range(own.starts):
            home, off = Path(folder) / str(start), Path(folder) / "off"
            switch = (f"decode.env.PYTHONPATH={SWITCH}", f"decode.env.{FILE_ENV}={off}")
            with (
                by_pdcache(home / "with", *SETS, *switch) as offloading,
                by_pdcache(home / "without", *SETS, "mode=prefill_only") as plain,
            ):
                for number in range(own.rounds + 1):  # the first one warms up
                    for at in range(len(NAMES)):
                        name = NAMES[(number + at) % len(NAMES)]
                        stack = plain if name == "prefill_only" else offloading
                        lengths = random.Random(own.seed + 100 * start + number)
                        with switched(off, name):
                            keys = stack.keys()
                            answers = one_round(stack, prompts, lengths)
                            written = stack.keys() - keys
                        if (written > 0) != (name == "with"):
                            raise RuntimeError(f"{name}: {written} keys written to the store")
                        if number:
                            note(answers, times[name])
            print(f"start {start + 1} of {own.starts}", flush=True)
    return report(times)


@contextlib.contextmanager
def switched(off: Path, name: str) -> Iterator[None]:
    """Offload is off within the block where the name says so; what was begun before ends."""
    if name == "switched off":
        off.touch()
    time.sleep(SETTLE_S)
    try:
        yield
        time.sleep(SETTLE_S)
    finally:
        off.unlink(missing_ok=True)


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


def report(times: dict[str, dict[str, list[float]]]) -> int:
    """Medians, spread, and the ratios of the rounds."""
    rows: dict[str, Any] = {"limit": LIMIT}
    missed = False
    for what in ("tpot_s", "gap_p99_s"):
        rows[what] = {
            name: {"median": statistics.median(of[what]), "spread": [min(of[what]), max(of[what])]}
            for name, of in times.items()
        }
        for peer in NAMES[1:]:
            pairs = zip(times["with"][what], times[peer][what], strict=True)
            ratios = [one / other for one, other in pairs]
            rows[what][peer] |= {
                "ratio": statistics.median(ratios), "ratios": [min(ratios), max(ratios)],
            }  # fmt: skip
            missed |= what == "tpot_s" and rows[what][peer]["ratio"] > LIMIT
    print(json.dumps(rows, indent=1))
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    (build / "offload_cost.json").write_text(json.dumps(rows, indent=1))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
