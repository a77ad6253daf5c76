"""Closes what a prefill keeps of a decode that is gone: SGLang's socket and Mooncake's connections.

A decode that was started again has another address, and nobody uses the one before any more. SGLang
0.5.23 (``disaggregation/common/conn.py``, ``CommonKVManager._connect``) looks whether a socket is
disconnected when it is asked for its address again. Mooncake 0.3.13 (``tcp_transport.cpp``) opens
up to four connections to a peer, its lanes, and closes one when it fails while it is used. So both
would be kept for every decode that ever died.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import socket
import threading
import time
from typing import Any

LIMIT_S = 1.0
"""How long an address may take to accept a connection."""

TRIES, PAUSE_S = 2, 0.3
"""Once in a while the first try has closed none (seen once in twenty, not explained)."""

LANES = 4
"""What Mooncake opens to a peer unless ``MC_TCP_LANES_PER_PEER`` says otherwise."""


def closing_what_is_lost(send: Any) -> Any:
    """``CommonKVManager._send_multipart_locked``; a first message to a worker is such a moment.

    The address is locked before its socket is looked up, so that none is closed in between.
    """

    @functools.wraps(send)
    def sent(manager: Any, endpoint: str, *args: Any, **named: Any) -> Any:
        with manager._socket_send_locks.setdefault(endpoint, threading.RLock()):
            is_new = endpoint not in manager._socket_cache
            result = send(manager, endpoint, *args, **named)
        if is_new:
            threading.Thread(target=close_lost, args=(manager,), daemon=True).start()
        return result

    return sent


def close_lost(manager: Any) -> None:
    """Close what is open to workers that are gone.

    Args:
        manager: SGLang's ``MooncakeKVManager``.
    """
    for endpoint in list(manager._socket_cache):
        sending = manager._socket_send_locks[endpoint]
        if not sending.acquire(blocking=False):
            continue  # It is in use.
        try:
            if not _is_lost(manager, endpoint):
                continue
            with manager._socket_lock:
                manager._socket_cache.pop(endpoint).close(linger=0)
                manager._monitor_cache.pop(endpoint).close()
        except KeyError:
            continue  # Another thread has closed it.
        finally:
            sending.release()
        close_connections(manager, endpoint)


def _is_lost(manager: Any, endpoint: str) -> bool:
    """Whether it was disconnected, or nobody listens there: then it was never connected."""
    import zmq

    with manager._socket_lock, contextlib.suppress(zmq.Again):
        manager._monitor_cache[endpoint].recv_multipart(zmq.NOBLOCK)
        return True
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), LIMIT_S).close()
    except OSError as error:
        return isinstance(error, ConnectionRefusedError)
    return False


def close_connections(manager: Any, endpoint: str) -> None:
    """Close Mooncake's connections to the decode that SGLang knows by an address.

    Args:
        manager: SGLang's ``MooncakeKVManager``.
        endpoint: ``tcp://HOST:PORT`` of the socket on which it hears how its transfers went.
    """
    engine = getattr(manager, "engine", None)
    tcp = os.environ.get("MC_FORCE_TCP") == "1" or os.environ.get("MOONCAKE_PROTOCOL") == "tcp"
    if engine is None or not tcp:
        return
    from sglang.srt.utils.network import NetworkAddress

    for session, decode in list(getattr(manager, "decode_kv_args_table", {}).items()):
        if NetworkAddress(decode.endpoint, decode.dst_port).to_tcp() == endpoint:
            close_lanes(engine, session, decode.dst_kv_ptrs[0])


def close_lanes(engine: Any, session: str, address: int) -> None:
    """Use every lane to a peer that is gone, so that each fails and is closed.

    A byte is read and none is written, so whoever listens there by now loses nothing by it.

    Args:
        engine: SGLang's ``MooncakeTransferEngine``.
        session: the peer, ``HOST:PORT``.
        address: of memory that the peer had registered.
    """
    if engine.send_probe(session) == 0:
        return
    lanes = int(os.environ.get("MC_TCP_LANES_PER_PEER", LANES))
    byte = ctypes.create_string_buffer(1)
    for _ in range(TRIES):
        engine.engine.batch_transfer_sync_read(
            session, [ctypes.addressof(byte)] * lanes, [address] * lanes, [1] * lanes
        )
        time.sleep(PAUSE_S)
