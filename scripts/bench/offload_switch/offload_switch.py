"""A plugin of SGLang: decode offloads nothing while a file exists, so that it is its own peer."""

from __future__ import annotations

import os
from typing import Any

FILE_ENV = "BENCH_OFFLOAD_OFF"


def register() -> None:
    """Called by SGLang in every process of a server that has this folder on its path."""
    from sglang.srt.disaggregation import decode_kvcache_offload_manager as module

    manager, file = module.DecodeKVCacheOffloadManager, os.environ[FILE_ENV]
    offload = manager.offload_kv_cache

    def unless_off(self: Any, req: Any) -> bool:
        return not os.path.exists(file) and bool(offload(self, req))

    manager.offload_kv_cache = unless_off
