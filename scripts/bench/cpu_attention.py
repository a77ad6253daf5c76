"""What do the CPU lane's attention, weights and layers cost beside SGLang's own path?

    python scripts/bench/cpu_attention.py [--rounds 5] [--model smollm2-135m] [--bfloat16]

Peers: SGLang 0.5.23 with `torch_native` in bfloat16 and in float32, and `transformers` in float32;
all in one process with one OpenMP thread, in turns. Counted is this thread's CPU time.
Limits, the lane in float32 against stock in bfloat16: first token of 1,114 with 1,088 cached 0.30,
of 1,087 with none 0.62; a decode step of one stream 0.65 (0.90 of transformers), of eight 0.35.
The limits are of a CPU on which bfloat16 products are no faster than float32's; where they are
(AVX512_BF16), the cold one is out of reach without them. Operations are shown without a limit.
Writes build/cpu_attention.json; exit 1 above a limit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sglang_in_process import Peer, as_a_cpu_worker, stock_and_lane

from pdcache.models import resolve_model

ROOT = Path(__file__).resolve().parents[2]
STOCK, LANE, HF = "stock bfloat16", "lane float32", "transformers float32"
LIMITS = (
    ("hit", STOCK, 0.30), ("cold", STOCK, 0.62), ("decode_1", STOCK, 0.65),
    ("decode_1", HF, 0.90), ("decode_8", STOCK, 0.35),
)  # fmt: skip
COLD, HIT, CACHED, SHORT = 1087, 1114, 1088, 250

Times = dict[str, list[float]]


def main() -> int:
    """Measure, print, write; 0 when every limit is kept."""
    parser = argparse.ArgumentParser(description="Cost of the CPU lane beside SGLang's own path.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--bfloat16", action="store_true", help="measure the lane in bfloat16 too")
    given = parser.parse_args()
    as_a_cpu_worker()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # so no free core helps the lane
    import torch

    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    lanes = ["float32", "bfloat16"] if given.bfloat16 else ["float32"]
    folder = resolve_model(given.model)
    peers = stock_and_lane(folder, ["bfloat16", "float32"], lanes, 16384)
    steps = {f"op {name}": runs for name, runs in operations().items()}
    steps |= model_steps(peers, Transformers(folder))
    times = in_turns(steps, given.rounds)
    compared = [
        {"step": step, "of": LANE, "to": peer, "ratio": ratio, "limit": limit}
        for step, peer, limit in LIMITS
        for ratio in [statistics.median(times[step][LANE]) / statistics.median(times[step][peer])]
    ]
    kept = all(one["ratio"] <= one["limit"] for one in compared)
    result = {"schema": 1, "rounds": given.rounds, "torch": torch.__version__,
              "ms": {step: spreads(peers) for step, peers in times.items()},
              "ratios": compared, "kept": kept}  # fmt: skip
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "cpu_attention.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=1))
    return 0 if kept else 1


def in_turns(steps: dict[str, dict[str, Callable[[], float]]], rounds: int) -> dict[str, Times]:
    """Milliseconds of each step by peer; the peers take turns, after one run that is not kept."""
    times: dict[str, Times] = {step: {peer: [] for peer in runs} for step, runs in steps.items()}
    for turn in range(rounds + 1):
        for step, runs in steps.items():
            for peer, run in runs.items():
                seconds = run()
                if turn:
                    times[step][peer].append(seconds * 1e3)
    return times


def spreads(peers: Times) -> dict[str, dict[str, float]]:
    """Median and extremes of each peer."""
    return {
        peer: {"median": round(statistics.median(ms), 3), "least": round(min(ms), 3),
               "most": round(max(ms), 3)}
        for peer, ms in peers.items()
    }  # fmt: skip


def model_steps(
    peers: Iterable[Peer], transformers: Transformers
) -> dict[str, dict[str, Callable[[], float]]]:
    """First tokens and decode steps; a decode time is the median of eight steps."""
    cold, hit = prompt(COLD), prompt(HIT)
    eight = [prompt(SHORT + 7 * at) for at in range(8)]

    def decode(peer: Peer, prompts: list[list[int]]) -> Callable[[], float]:
        return lambda: statistics.median(peer.decode_s(prompts, 8))

    peers = list(peers)
    return {
        "cold": {peer.name: lambda peer=peer: peer.prefill_s(cold) for peer in peers}
        | {HF: lambda: transformers.prefill_s(cold)},
        "hit": {peer.name: lambda peer=peer: peer.prefill_s(hit, CACHED) for peer in peers}
        | {HF: lambda: transformers.hit_s(hit, CACHED)},
        "decode_1": {peer.name: decode(peer, [cold]) for peer in peers}
        | {HF: lambda: transformers.decode_s(cold, 8)},
        "decode_8": {peer.name: decode(peer, eight) for peer in peers},
    }


class Transformers:
    """The same model in `transformers`, float32; it keeps the cache of the last prompt."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def prefill_s(self, prompt: list[int]) -> float:
        """CPU-seconds from nothing to the logits of the next token."""
        return self._run(prompt, None)[1]

    def hit_s(self, prompt: list[int], cached: int) -> float:
        """CPU-seconds with the first `cached` tokens' KV at hand."""
        cache = self._run(prompt[:cached], None)[0]
        return self._run(prompt[cached:], cache)[1]

    def decode_s(self, prompt: list[int], steps: int) -> float:
        """Median CPU-seconds of a decode step after the prompt."""
        cache = self._run(prompt, None)[0]
        return statistics.median(self._run([7], cache)[1] for _ in range(steps))

    def _run(self, tokens: list[int], cache: Any) -> tuple[Any, float]:
        ids = self._torch.tensor([tokens])
        start = time.thread_time()
        out = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        out.logits[0, -1].argmax().item()
        return out.past_key_values, time.thread_time() - start


def operations() -> dict[str, dict[str, Callable[[], float]]]:
    """The lane's operations beside those they stand for, on SmolLM2's shapes in float32."""
    import torch
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
    from torch.nn.functional import linear

    from pdcache.sglang_cpu import attention
    from pdcache.sglang_cpu.linear import pack, packed_linear

    torch.manual_seed(0)
    keys, values = torch.randn(2, 16384, 3, 64)
    pages = torch.randperm(256).view(8, 32, 1)
    table = (pages * 64 + torch.arange(64)).view(8, -1).int()
    stock = TorchNativeAttnBackend.__new__(TorchNativeAttnBackend)

    def decode(lengths: list[int]) -> dict[str, Callable[[], float]]:
        rows, query = torch.arange(len(lengths)), torch.randn(len(lengths), 9, 64)
        plan = attention.plan_decode(table, rows, torch.tensor(lengths))
        return {
            "stock": lambda: timed(lambda: stock._run_sdpa_forward_decode(
                query, torch.empty_like(query), keys, values, table, rows, torch.tensor(lengths),
                scaling=0.125, enable_gqa=True)),
            "lane": lambda: timed(lambda: attention.decode_attention(
                query, keys, values, plan, scaling=0.125)),
        }  # fmt: skip

    def extend(prefix: int, new: int) -> dict[str, Callable[[], float]]:
        query = torch.randn(new, 9, 64)
        row, before, count = torch.tensor([0]), torch.tensor([prefix]), torch.tensor([new])
        plan = attention.plan_extend(table, [0], [prefix], [new])
        return {
            "stock": lambda: timed(lambda: stock._run_sdpa_forward_extend(
                query, torch.empty_like(query), keys, values, table, row, before + count, before,
                count, scaling=0.125, enable_gqa=True, causal=True)),
            "lane": lambda: timed(lambda: attention.extend_attention(
                query, keys, values, plan, scaling=0.125, causal=True)),
        }  # fmt: skip

    def product(rows: int) -> dict[str, Callable[[], float]]:
        weights = [torch.randn(3072, 576).bfloat16().float() for _ in range(30)]
        packed, x = [pack(weight) for weight in weights], torch.randn(rows, 576)
        return {
            "stock": lambda: timed(lambda: [linear(x, weight) for weight in weights]),
            "lane": lambda: timed(lambda: [packed_linear(x, weight) for weight in packed]),
        }

    found = {f"decode {name}": decode(lengths) for name, lengths in (
        ("1 x 1087", [1087]), ("8 x 250-299", [250 + 7 * at for at in range(8)]),
        ("8 x 1000", [1000] * 8), ("8 x 50-1800", [50 + 250 * at for at in range(8)]))}  # fmt: skip
    found |= {f"extend {p} + {n}": extend(p, n) for p, n in ((1088, 26), (1024, 256), (0, 1087))}
    return found | {f"30 products of {rows} rows": product(rows) for rows in (1, 2, 8, 26)}


def timed(work: Callable[[], object]) -> float:
    """CPU-seconds of one call."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def prompt(length: int) -> list[int]:
    """Tokens at random, the same for a length."""
    return random.Random(length).choices(range(5, 40000), k=length)


if __name__ == "__main__":
    raise SystemExit(main())
