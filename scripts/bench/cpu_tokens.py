"""Does the CPU lane say in float32, token for token, what SGLang's own path says?

    python scripts/bench/cpu_tokens.py [--model smollm2-135m] [--prompts 50] [--tokens 24]

Peer: SGLang 0.5.23 with `torch_native`, in the same process. The prompts are pieces of this
project's documentation from 3 to `--longest` tokens, in batches of 1 to 8; every other batch comes
in two parts, so that the second finds a cached prefix. Limit: not one token differs. Writes
build/cpu_tokens.json; exit 1 when a token differs, with how far the two best tokens were apart.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sglang_in_process import as_a_cpu_worker, stock_and_lane

from pdcache.models import resolve_model

ROOT = Path(__file__).resolve().parents[2]
SIZES = (1, 2, 3, 8, 5)


def main() -> int:
    """Ask both, compare, print, write; 0 when all tokens are the same."""
    parser = argparse.ArgumentParser(description="Greedy tokens of the CPU lane and of SGLang.")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--longest", type=int, default=700)
    given = parser.parse_args()
    as_a_cpu_worker()
    folder = resolve_model(given.model)
    stock, lane = stock_and_lane(folder, ["float32"], ["float32"], 8192)
    differences: list[dict[str, Any]] = []
    for number, batch in enumerate(batches(prompts(folder, given.prompts, given.longest))):
        cached = (min(map(len, batch)) - 1) * (number % 2)
        said = [peer.greedy(batch, cached, given.tokens) for peer in (stock, lane)]
        for prompt, ours, theirs in zip(batch, said[1], said[0], strict=True):
            if difference := first_difference(ours, theirs):
                differences.append({"prompt_tokens": len(prompt), "cached": cached, **difference})
    result = {
        "schema": 1, "model": given.model, "prompts": given.prompts, "tokens": given.tokens,
        "differences": differences, "kept": not differences,
    }  # fmt: skip
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "cpu_tokens.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    return 0 if result["kept"] else 1


def prompts(folder: Path, count: int, longest: int) -> list[list[int]]:
    """Pieces of the documentation, lengths spread from 3 to `longest` tokens in no order."""
    from transformers import AutoTokenizer

    text = "\n".join(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))
    ids = AutoTokenizer.from_pretrained(folder)(text[: count * longest * 4])["input_ids"]
    lengths = [3 + (longest - 3) * (at * 37 % count) // max(count - 1, 1) for at in range(count)]
    starts = [at * (len(ids) - longest) // count for at in range(count)]
    return [ids[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def batches(prompts: list[list[int]]) -> list[list[list[int]]]:
    """The prompts in order, in batches of `SIZES` over and over."""
    parts, at = [], 0
    while at < len(prompts):
        size = SIZES[len(parts) % len(SIZES)]
        parts.append(prompts[at : at + size])
        at += size
    return parts


def first_difference(
    ours: list[tuple[int, float]], theirs: list[tuple[int, float]]
) -> dict[str, Any] | None:
    """Where two answers part, and the lead that each peer's token had there."""
    for at, ((our, our_lead), (their, their_lead)) in enumerate(zip(ours, theirs, strict=True)):
        if our != their:
            return {"at": at, "lane": our, "stock": their, "leads": [our_lead, their_lead]}
    return None


if __name__ == "__main__":
    raise SystemExit(main())
