"""Does the CPU lane say, token for token, what SGLang's own path says?

    python scripts/bench/cpu_tokens.py [--model smollm2-135m] [--prompts 50] [--tokens 24]

Peer: SGLang 0.5.23 with `torch_native`, in the same process. The prompts are pieces of this
project's documentation, or of `--text`, from 3 to `--longest` tokens, in batches of 1 to 8; every
other batch comes in two parts, so that the second finds a cached prefix. Limits: in float32 not one
token differs; in bfloat16, where two answers part, the two best logits are no more than four steps
of that type apart in either, which is what rounding in another order makes of them. Writes
build/cpu_tokens.json; exit 1 above a limit.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from sglang_in_process import Peer, Said, as_a_cpu_worker, stock_and_lane

from pdcache.models import resolve_model

ROOT = Path(__file__).resolve().parents[2]
SIZES = (1, 2, 3, 8, 5)
DTYPES = ("float32", "bfloat16")
STEPS = 4


def main() -> int:
    """Ask both, compare, print, write; 0 when all tokens are the same."""
    parser = argparse.ArgumentParser(description="Greedy tokens of the CPU lane and of SGLang.")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--longest", type=int, default=700)
    parser.add_argument("--text", type=Path, help="take the prompts from this file")
    given = parser.parse_args()
    as_a_cpu_worker()
    folder = resolve_model(given.model)
    peers = {peer.name: peer for peer in stock_and_lane(folder, DTYPES, DTYPES, 8192)}
    parts = batches(prompts(folder, given.prompts, given.longest, given.text))
    found = {
        dtype: differences(peers[f"lane {dtype}"], peers[f"stock {dtype}"], parts, given.tokens)
        for dtype in DTYPES
    }
    kept = not found["float32"] and all(row["steps_apart"] <= STEPS for row in found["bfloat16"])
    result = {
        "schema": 1, "model": given.model, "prompts": given.prompts, "tokens": given.tokens,
        "differences": found, "kept": kept,
    }  # fmt: skip
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "cpu_tokens.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    return 0 if result["kept"] else 1


def prompts(folder: Path, count: int, longest: int, file: Path | None) -> list[list[int]]:
    """Pieces of a text, lengths spread from 3 to `longest` tokens in no order."""
    from transformers import AutoTokenizer

    pages = sorted((ROOT / "docs").glob("*.md")) if file is None else [file]
    text = "\n".join(page.read_text() for page in pages)
    ids = AutoTokenizer.from_pretrained(folder)(text[: count * longest * 4])["input_ids"]
    lengths = [3 + (longest - 3) * (at * 37 % count) // max(count - 1, 1) for at in range(count)]
    starts = [at * (len(ids) - longest) // count for at in range(count)]
    return [ids[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def differences(
    lane: Peer, stock: Peer, parts: list[list[list[int]]], tokens: int
) -> list[dict[str, Any]]:
    """Where the answers to a prompt part first, for each prompt where they do."""
    found = []
    for number, batch in enumerate(parts):
        cached = (min(map(len, batch)) - 1) * (number % 2)
        said = [peer.greedy(batch, cached, tokens) for peer in (lane, stock)]
        for prompt, ours, theirs in zip(batch, *said, strict=True):
            if difference := first_difference(ours, theirs):
                found.append({"prompt_tokens": len(prompt), "cached": cached, **difference})
    return found


def batches(prompts: list[list[int]]) -> list[list[list[int]]]:
    """The prompts in order, in batches of `SIZES` over and over."""
    parts, at = [], 0
    while at < len(prompts):
        size = SIZES[len(parts) % len(SIZES)]
        parts.append(prompts[at : at + size])
        at += size
    return parts


def first_difference(ours: list[Said], theirs: list[Said]) -> dict[str, Any] | None:
    """Where two answers part; leads in logits, and the larger one in steps of bfloat16."""
    for at, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        if our.token != their.token:
            step = 2.0 ** (math.frexp(max(our.logit, their.logit))[1] - 8)
            leads = [our.lead, their.lead]
            return {"at": at, "leads": leads, "steps_apart": max(leads) / step}
    return None


if __name__ == "__main__":
    raise SystemExit(main())
