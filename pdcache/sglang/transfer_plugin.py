"""SGLang plugin (entry-point group ``sglang.srt.plugins``): a KV transfer's status is not lost, no
socket is kept to a decode that is gone, and none is used to a prefill that is gone.

SGLang 0.5.23 (``disaggregation/common/conn.py``, ``CommonKVManager.update_status``) reads a
request's status and writes the later of the two without a lock, from several threads: a Success or
a Failed that comes in between is overwritten, and the request waits until its time limit.

What it keeps of a decode that died is closed with the first message to a new one (`lost_workers`),
and a prefill that died is forgotten before anything is sent to it (`lost_prefill`).
"""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

from pdcache.sglang.keys_plugin import KEYS_ENV
from pdcache.sglang.lost_prefill import noticing
from pdcache.sglang.lost_workers import closing_what_is_lost

APPLIED = "pdcache_transfers"
"""Of SGLang's class; others may wrap the same methods."""


def register() -> None:
    """Have all of it so, in servers of pdcache only."""
    if not os.environ.get(KEYS_ENV):
        return
    from sglang.srt.disaggregation.common.conn import CommonKVManager as Manager
    from sglang.srt.disaggregation.common.conn import CommonKVReceiver as Receiver
    from sglang.srt.disaggregation.decode import DecodePreallocQueue as Queue

    if not getattr(Manager, APPLIED, False):
        setattr(Manager, APPLIED, True)
        Manager.update_status = one_at_a_time(Manager.update_status)
        Manager._send_multipart_locked = closing_what_is_lost(Manager._send_multipart_locked)
        noticing(Queue, Receiver)


def one_at_a_time(method: Any) -> Any:
    """The method under a lock of its own, which it may take again from within."""
    lock = threading.RLock()

    @functools.wraps(method)
    def locked(*args: Any, **named: Any) -> Any:
        with lock:
            return method(*args, **named)

    return locked
