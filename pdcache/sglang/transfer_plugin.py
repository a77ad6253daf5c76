"""SGLang plugin (entry-point group ``sglang.srt.plugins``): a KV transfer's status is not lost.

SGLang 0.5.23 (``disaggregation/common/conn.py``, ``CommonKVManager.update_status``) reads a
request's status and writes the later of the two without a lock, from several threads: a Success or
a Failed that comes in between is overwritten, and the request waits until its time limit.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

from pdcache.sglang.keys_plugin import KEYS_ENV


def register() -> None:
    """Have one thread at a time change the status of a transfer, in servers of pdcache only."""
    if not os.environ.get(KEYS_ENV):
        return
    from sglang.srt.disaggregation.common.conn import CommonKVManager

    if not hasattr(CommonKVManager.update_status, "__wrapped__"):
        CommonKVManager.update_status = one_at_a_time(CommonKVManager.update_status)


def one_at_a_time(method: Any) -> Any:
    """The method under a lock of its own, which it may take again from within."""
    lock = threading.RLock()

    @functools.wraps(method)
    def locked(*args: Any, **named: Any) -> Any:
        with lock:
            return method(*args, **named)

    return locked
