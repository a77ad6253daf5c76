"""SGLang plugin (entry-point group ``sglang.srt.plugins``): a KV transfer's status is not lost, and
no socket is kept to a worker that is gone.

SGLang 0.5.23 (``disaggregation/common/conn.py``, ``CommonKVManager.update_status``) reads a
request's status and writes the later of the two without a lock, from several threads: a Success or
a Failed that comes in between is overwritten, and the request waits until its time limit.

Its ``_connect`` keeps a socket an address, and looks whether one is disconnected when it is asked
for that address again. A worker that was started again has another address, so that of each worker
that ever died would be kept.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from typing import Any

from pdcache.sglang.keys_plugin import KEYS_ENV


def register() -> None:
    """Have both so, in servers of pdcache only."""
    if not os.environ.get(KEYS_ENV):
        return
    from sglang.srt.disaggregation.common.conn import CommonKVManager

    if not hasattr(CommonKVManager.update_status, "__wrapped__"):
        CommonKVManager.update_status = one_at_a_time(CommonKVManager.update_status)
        CommonKVManager._connect = closing_lost_sockets(CommonKVManager._connect)


def one_at_a_time(method: Any) -> Any:
    """The method under a lock of its own, which it may take again from within."""
    lock = threading.RLock()

    @functools.wraps(method)
    def locked(*args: Any, **named: Any) -> Any:
        with lock:
            return method(*args, **named)

    return locked


def closing_lost_sockets(connect: Any) -> Any:
    """The method, which first closes sockets that are disconnected when it is to make one."""

    @functools.wraps(connect)
    def connected(manager: Any, endpoint: str, *args: Any, **named: Any) -> Any:
        if endpoint not in manager._socket_cache:
            for other in list(manager._monitor_cache):
                _close_if_lost(manager, other)
        return connect(manager, endpoint, *args, **named)

    return connected


def _close_if_lost(manager: Any, endpoint: str) -> None:
    import zmq

    sending = manager._socket_send_locks.get(endpoint)
    if sending is None or not sending.acquire(blocking=False):
        return
    try:
        with manager._socket_lock, contextlib.suppress(zmq.Again):
            manager._monitor_cache[endpoint].recv_multipart(zmq.NOBLOCK)
            manager._socket_cache.pop(endpoint).close(linger=0)
            manager._monitor_cache.pop(endpoint).close()
    except KeyError:
        return  # Another thread has closed it.
    finally:
        sending.release()
