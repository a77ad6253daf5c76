"""What `transformers` needs for the same work: one thread, float32, one request at a time."""

from __future__ import annotations

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
    def turn(self, prompt: Sequence[int], cached: int, tokens: int) -> tuple[float, list[float]]:
        """TTFT and gaps of a prompt whose first `cached` tokens are computed before."""
        past = self._step(prompt[:cached], None)[1] if cached else None
        begin = time.perf_counter()
        token, past = self._step(prompt[cached:], past)
        stamps = [time.perf_counter()]
        for _ in range(tokens - 1):
            token, past = self._step([token], past)
            stamps.append(time.perf_counter())
        return stamps[0] - begin, [later - earlier for earlier, later in pairwise(stamps)]

    def _step(self, ids: Sequence[int], past: Any) -> tuple[int, Any]:
        out = self._model(
            torch.tensor([list(ids)]), past_key_values=past, use_cache=True, logits_to_keep=1
        )
        return int(out.logits[0, -1].argmax()), out.past_key_values
