"""Scheduler and detokenizer as forks of the server, which has imported everything already.

SGLang 0.5.23 (entrypoints/engine.py) spawns them, for a CUDA context does not outlive a fork; each
then imports for ten seconds what its parent has in memory. A CPU has no such context, and with one
OpenMP thread the parent has no threads when it forks.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

from pdcache.sglang_cpu.targets import Target

ENGINE = Target("sglang.srt.entrypoints.engine", "mp")


class ForkingMultiprocessing:
    """The module `multiprocessing`, but its processes are forked."""

    Process = multiprocessing.get_context("fork").Process

    def __getattr__(self, name: str) -> Any:
        return getattr(multiprocessing, name)


def fork_children() -> None:
    """Let the engine fork the processes that it starts itself."""
    ENGINE.set(ForkingMultiprocessing())
