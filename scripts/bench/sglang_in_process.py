"""SGLang's model runner in this process, as stock or with the CPU lane, one peer beside another.

Uses what `sglang.benchmark.one_batch` (sglang 0.5.23) is made of: no server, no scheduler, greedy
sampling. Times are of this thread's CPU in seconds: with one OpenMP thread that is the cost of the
work, whatever else the machine does.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

from pdcache.sglang_cpu import SERVER_FLAGS, pythonpath_folder, worker_environment
from pdcache.sglang_cpu.targets import Target

PAGE_SIZE = 64


def as_a_cpu_worker() -> None:
    """Start this program again in a CPU worker's environment, unless it runs in one."""
    if str(pythonpath_folder()) in sys.path:
        return
    path = os.pathsep.join(filter(None, [str(pythonpath_folder()), os.environ.get("PYTHONPATH")]))
    environment = os.environ | worker_environment() | {"PYTHONPATH": path}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def replaced() -> dict[Target, Any]:
    """What the lane replaces for every model at once, with its present values."""
    from pdcache.sglang_cpu import decoder, linear

    return {target: target.get() for target in (linear.APPLY, linear.LM_HEAD, decoder.FORWARD)}


def stock_and_lane(
    model: Path, stock_dtypes: Sequence[str], lane_dtypes: Sequence[str], tokens: int
) -> list[Peer]:
    """Peers named ``stock DTYPE`` and ``lane DTYPE``, each with a KV pool of so many tokens."""
    from sglang.srt.plugins import load_plugins

    peers = [
        Peer("stock", model, dtype, tokens, first=not at) for at, dtype in enumerate(stock_dtypes)
    ]
    load_plugins()
    return peers + [Peer("lane", model, dtype, tokens, first=not peers) for dtype in lane_dtypes]


class Said(NamedTuple):
    """A token, its logit, and by how much that is above the second best."""

    token: int
    logit: float
    lead: float


class Peer:
    """One model on one path through SGLang."""

    def __init__(self, path: str, model: Path, dtype: str, tokens: int, *, first: bool) -> None:
        from sglang.benchmark import one_batch
        from sglang.srt.server_args import PortArgs, prepare_server_args

        self.name = f"{path} {dtype}"
        flags = SERVER_FLAGS | ({"--attention-backend": "torch_native"} if path == "stock" else {})
        words = [word for item in flags.items() for word in item if word is not True]
        options = {
            "model-path": model, "dtype": dtype, "page-size": PAGE_SIZE, "log-level": "error",
            "max-total-tokens": tokens, "max-running-requests": 16,
        }  # fmt: skip
        words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._batch = one_batch
        self._replaced = replaced()
        self._args = prepare_server_args(words)
        self._args.resolve_once()
        self._publish()
        one_batch._init_process_global_configs()
        if not first:  # The process groups are built once.
            nothing = lambda **_: None  # noqa: E731
            one_batch.bootstrap = SimpleNamespace(
                init_parallel_runtime=nothing, init_layer_runtime=nothing
            )
        # SGLang leaves a file for each of its sockets, which nobody opens here.
        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.object(tempfile, "tempdir", folder),
        ):
            ports = PortArgs.init_new(self._args)
        self._runner, _ = one_batch.load_model(self._args, ports, 0, 0)

    def prefill_s(self, prompt: Sequence[int], cached: int = 0) -> float:
        """CPU-seconds to the first token of a prompt whose first `cached` tokens are cached."""
        self._take_over()
        _, _, seconds = self._prefill([prompt], cached)
        return seconds

    def decode_s(self, prompts: Sequence[Sequence[int]], steps: int) -> list[float]:
        """CPU-seconds of each of so many decode steps of all prompts together."""
        self._take_over()
        tokens, batch, _ = self._prefill(prompts, 0)
        times = []
        for _ in range(steps):
            start = time.thread_time()
            tokens, _ = self._runner.decode(tokens, batch)
            times.append(time.thread_time() - start)
        return times

    def greedy(self, prompts: Sequence[Sequence[int]], cached: int, steps: int) -> list[list[Said]]:
        """For each prompt its next tokens."""
        self._take_over()
        tokens, batch, _ = self._prefill(prompts, cached)
        found = [[said] for said in _said(tokens, self._logits)]
        for _ in range(steps - 1):
            tokens, logits = self._runner.decode(tokens, batch)
            for one, said in zip(found, _said(tokens, logits), strict=True):
                one.append(said)
        return found

    def _prefill(self, prompts: Sequence[Sequence[int]], cached: int) -> tuple[Any, Any, float]:
        prompts = [list(prompt) for prompt in prompts]
        requests = self._batch.prepare_synthetic_inputs_for_latency_test(len(prompts), 0, prompts)
        if cached:
            for request in requests:
                request.full_untruncated_fill_ids = request.origin_input_ids[:cached]
                request.extend_end = cached
            self._runner.extend(requests)
            self._batch.prepare_extend_inputs_for_correctness_test(
                SimpleNamespace(cut_len=cached), prompts, requests, self._runner.torch_runner
            )
        start = time.thread_time()
        tokens, logits, batch = self._runner.extend(requests)
        seconds = time.thread_time() - start
        self._logits = logits
        return tokens, batch, seconds

    def _take_over(self) -> None:
        """Make this peer's path and arguments the process's, and empty its cache."""
        self._publish()
        for target, value in self._replaced.items():
            target.set(value)
        self._runner.clear()

    def _publish(self) -> None:
        ranks = self._batch.SpawnRanks(world_rank=0, gpu_id=0)
        self._batch.publish(self._args, role="scheduler", ranks=ranks)


def _said(tokens: Any, logits: Any) -> list[Said]:
    best, second = logits.float().topk(2).values.unbind(-1)
    rows = zip(tokens.tolist(), best.tolist(), (best - second).tolist(), strict=True)
    return [Said(*row) for row in rows]
