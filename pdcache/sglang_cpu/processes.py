"""Scheduler and detokenizer as forks of the server, which has imported everything already.

SGLang 0.5.23 (entrypoints/engine.py) spawns them, for a CUDA context does not outlive a fork; each
then imports for ten seconds what its parent has in memory. A CPU has no such context, and with one
OpenMP thread the parent has no threads when it forks.
"""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.context
from typing import Any

from pdcache.sglang_cpu import tokenizers
from pdcache.sglang_cpu.targets import Target

ENGINE = Target("sglang.srt.entrypoints.engine", "mp")
METRIC_VALUES = Target("prometheus_client.values", "ValueClass")
CHOOSE_VALUES = Target("prometheus_client.values", "get_value_class")


class ForkedProcess(multiprocessing.context.ForkProcess):
    """A forked process whose metrics reach the server's ``/metrics``."""

    def start(self) -> None:
        """Fork once the collector has put aside what is there: to look at an object is to write to
        it, and both processes would then have a copy of all that was imported.
        """
        tokenizers.load_before_fork()
        gc.freeze()
        super().start()

    def run(self) -> None:
        """Choose how metrics are kept as a spawned process would, then do the work.

        prometheus_client chooses when it is imported, which in the parent was before SGLang named
        the folder by which processes share their metrics.
        """
        METRIC_VALUES.set(CHOOSE_VALUES.get()())
        super().run()


class ForkingMultiprocessing:
    """The module `multiprocessing`, but its processes are forked."""

    Process = ForkedProcess

    def __getattr__(self, name: str) -> Any:
        return getattr(multiprocessing, name)


def fork_children() -> None:
    """Let the engine fork the processes that it starts itself, and load what they share before."""
    tokenizers.share()
    ENGINE.set(ForkingMultiprocessing())
