"""Host pools on a machine without a GPU: no pinned memory, and a reserve that pdcache sets."""

from __future__ import annotations

import os
from typing import Any

import torch

from pdcache.sglang_cpu import HOST_RESERVE_ENV
from pdcache.sglang_cpu.targets import Target

BASE = "sglang.srt.mem_cache.pool_host.base"
HOST_POOL_INIT = Target(BASE, "HostKVCache", "__init__")
HOST_RESERVE = Target(BASE, "HICACHE_HOST_MEMORY_RESERVE_BYTES")


def leave_host_pools_unpinned() -> None:
    """Make every `HostKVCache` unpinned, whatever its builder asks for.

    Pinning registers the buffer with `torch.cuda.cudart()`
    (SGLang 0.5.23 mem_cache/pool_host/common.py), which needs a GPU.
    """
    original = HOST_POOL_INIT.get()

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs["pin_memory"] = False
        original(self, *args, **kwargs)

    HOST_POOL_INIT.set(init)


def set_host_reserve() -> None:
    """Take the bytes a host pool must leave free from `PDCACHE_HOST_RESERVE_BYTES`, 0 if unset.

    SGLang 0.5.23 keeps 10 GiB at every pool it builds (mem_cache/pool_host/base.py,
    `host_memory_budget_bytes`); on a small machine that refuses pools that fit, and pdcache's
    plan already budgets the whole node.
    """
    HOST_RESERVE.set(host_reserve_bytes())


def host_reserve_bytes() -> int:
    """The reserve asked for in the environment, in bytes.

    Raises:
        ValueError: the variable is not a whole number of bytes >= 0.
    """
    text = os.environ.get(HOST_RESERVE_ENV, "0")
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{HOST_RESERVE_ENV}={text!r} is not a whole number of bytes")
    return int(text)


def let_cpu_streams_synchronize() -> None:
    """Give `torch.cpu.Stream` the `synchronize` that SGLang calls after a failed copy.

    Without it (SGLang 0.5.23 mem_cache/l2_transfer.py) an AttributeError hides the cause.
    """
    if not hasattr(torch.cpu.Stream, "synchronize"):
        torch.cpu.Stream.synchronize = lambda self: None
