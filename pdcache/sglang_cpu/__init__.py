"""The CPU lane: real SGLang on a machine without a GPU.

A plugin of SGLang's own entry-point group, plus a folder that only CPU workers get on
`PYTHONPATH`; having that folder on the path is what activates the plugin.
Importing this package imports neither torch nor sglang.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ATTENTION_BACKEND",
    "DEFAULT_DTYPE",
    "HOST_RESERVE_ENV",
    "SERVER_FLAGS",
    "STOCK_ENV",
    "pythonpath_folder",
    "thread_binding",
    "worker_environment",
]

HOST_RESERVE_ENV = "PDCACHE_HOST_RESERVE_BYTES"
"""Bytes of host memory a HiCache host pool must leave free; 0 when unset."""

STOCK_ENV = "PDCACHE_STOCK_SGLANG"
"""Set: SGLang's own layers compute, and the lane supplies no more than what a CPU lacks."""

ATTENTION_BACKEND = "pdcache_cpu"
"""The name under which the plugin registers the lane's attention with SGLang."""

DEFAULT_DTYPE = "float32"
"""On a CPU without AMX faster than bfloat16 but for long prompts, and nearly free of near-ties."""

SERVER_FLAGS: Mapping[str, str | bool] = MappingProxyType(
    {
        "--device": "cpu",
        "--attention-backend": ATTENTION_BACKEND,
        "--sampling-backend": "pytorch",
        # Prefill/decode disaggregation on CPU has no streams to overlap on.
        "--disable-overlap-schedule": True,
        "--cuda-graph-backend-decode": "disabled",
        "--cuda-graph-backend-prefill": "disabled",
        # An idle scheduler otherwise polls and burns a core.
        "--sleep-on-idle": True,
        "--skip-server-warmup": True,
    }
)
"""Flags of `sglang.launch_server` a CPU worker needs; `True` means the bare flag."""


def worker_environment() -> dict[str, str]:
    """Environment variables of a CPU worker, without `PYTHONPATH`: see `pythonpath_folder`."""
    return {
        "SGLANG_USE_CPU_ENGINE": "1",
        # More OpenMP threads than free cores spin against each other: about 15x slower.
        "OMP_NUM_THREADS": "1",
        # Threads that help (`cores`) sleep while they wait.
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "MC_FORCE_TCP": "1",
        # Without it the code of every model is imported, which takes seconds.
        "SGLANG_EXTERNAL_MODEL_PACKAGE": "pdcache.sglang_cpu.models",
    }


def thread_binding(ranks: int, cpus: int) -> dict[str, str]:
    """Cores of a server's ranks; with several ranks SGLang asks for it where NUMA nodes are fewer.

    Source: sglang 0.5.23 ``utils/numa_utils.py:463``.
    """
    if ranks == 1:
        return {}
    return {"SGLANG_CPU_OMP_THREADS_BIND": "|".join(str(rank % cpus) for rank in range(ranks))}


def pythonpath_folder() -> Path:
    """The folder to put first on the `PYTHONPATH` of a CPU worker, and of nothing else.

    It holds a top-level `sgl_kernel`, which must never be importable beside the real one.
    """
    from pathlib import Path

    return Path(__file__).resolve().parent / "pythonpath"
