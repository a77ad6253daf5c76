"""The SGLang plugin of the CPU lane (entry-point group `sglang.srt.plugins`)."""

from __future__ import annotations

import os

from pdcache.sglang_cpu import STOCK_ENV
from pdcache.sglang_cpu.targets import MissingTarget, Target, sglang_version

IS_CPU = Target("sglang.srt.utils", "is_cpu")


def register() -> None:
    """Apply every replacement of the CPU lane to this process; any failure ends the process.

    SGLang logs and swallows exceptions of plugins (plugins/__init__.py, `load_plugins`), and a
    server that is only partly patched fails much later at its first copy. `SystemExit` is not
    swallowed.

    Raises:
        SystemExit: with one paragraph that says what does not fit.
    """
    try:
        _apply()
    except MissingTarget as error:
        raise SystemExit(
            f"pdcache CPU lane: {error}. The installed SGLang {sglang_version()} differs from "
            "the version this pdcache supports (0.5.23), so running it on a CPU would fail "
            "later; install sglang==0.5.23 or a pdcache made for that version."
        ) from error
    except Exception as error:
        raise SystemExit(
            f"pdcache CPU lane cannot start with SGLang {sglang_version()}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _apply() -> None:
    if not IS_CPU.get()():
        raise RuntimeError(
            "the CPU lane's folder is on PYTHONPATH but SGLang does not run its CPU engine; "
            "set SGLANG_USE_CPU_ENGINE=1 or take the folder off the path"
        )
    from pdcache.sglang_cpu import (
        attention_backend,
        cores,
        decoder,
        host_pools,
        linear,
        pd_sender,
        pinning,
        processes,
        storage_threads,
        waiting,
    )

    pinning.set_host_reserve()
    pinning.leave_host_pools_unpinned()
    pinning.let_cpu_streams_synchronize()
    host_pools.bind_copies()
    attention_backend.register_backend()
    if not os.environ.get(STOCK_ENV):
        linear.install()
        decoder.install()
        cores.install()
        waiting.pause_between_looks()
        storage_threads.leave_cores()
        processes.fork_children()
    pd_sender.send_plain_indices()
