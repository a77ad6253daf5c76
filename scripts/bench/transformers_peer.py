"""What `transformers` needs for the same work: one thread, float32, one request at a time."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from pdcache.sglang_cpu.torchvision_ops import declare_missing_operators


class TransformersPeer:
    """A model in this process; seconds to the first token, and between tokens."""

    def __init__(self, model: Path) -> None:
        declare_missing_operators()
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    @torch.inference_mode()
    def turn(self, prompt: Sequence[int], tokens: int) -> tuple[float, list[float]]:
        """TTFT and gaps of a cold prompt."""
        begin = time.perf_counter()
        token, past = self._step(prompt, None)
        stamps = [time.perf_counter()]
        for _ in range(tokens - 1):
            token, past = self._step([token], past)
            stamps.append(time.perf_counter())
        return stamps[0] - begin, [later - earlier for earlier, later in pairwise(stamps)]

    @torch.inference_mode()
    def hits(self, prefix: Sequence[int], suffixes: Sequence[Sequence[int]]) -> list[float]:
        """TTFT of each suffix after the same prefix, which is computed before."""
        past, seconds = self._step(prefix, None)[1], []
        for suffix in suffixes:
            own = copy.deepcopy(past)
            begin = time.perf_counter()
            self._step(suffix, own)
            seconds.append(time.perf_counter() - begin)
        return seconds

    def _step(self, ids: Sequence[int], past: Any) -> tuple[int, Any]:
        out = self._model(
            torch.tensor([list(ids)]), past_key_values=past, use_cache=True, logits_to_keep=1
        )
        return int(out.logits[0, -1].argmax()), out.past_key_values
