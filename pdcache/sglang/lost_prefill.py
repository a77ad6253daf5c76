"""Decode notices at once that a prefill is gone, and takes the one that follows for another.

SGLang 0.5.23 (``disaggregation/common/conn.py``) keeps what it knows of a prefill by the address of
its bootstrap server, and forgets it when that was not reachable twice in a row, looking every few
seconds. A prefill that is back sooner has the same address, and other ports: decode sends to the
ports of the one before, and every request of the two waits until its time limit. The socket that
decode sends on knows better: its connection ends with the process.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import Any

_monitors: dict[str, Any] = {}
_lock = threading.Lock()


def noticing(queue: Any, receiver: Any) -> None:
    """Change SGLang's classes so.

    Args:
        queue: ``DecodePreallocQueue``, which every request comes to first.
        receiver: ``CommonKVReceiver``, which has the sockets.
    """
    receiver._connect = _monitored(receiver._connect)
    receiver.disconnect_endpoint = _unmonitored(receiver.disconnect_endpoint)
    queue.add = _forgetting_first(queue.add)


def _monitored(connect: Any) -> Any:
    @functools.wraps(connect)
    def connected(endpoint: str, *args: Any, **named: Any) -> Any:
        import zmq

        socket, lock = connect(endpoint, *args, **named)
        with _lock:
            if endpoint not in _monitors:
                _monitors[endpoint] = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        return socket, lock

    return staticmethod(connected)


def _unmonitored(disconnect: Any) -> Any:
    @functools.wraps(disconnect)
    def disconnected(endpoint: str) -> None:
        with _lock:
            monitor = _monitors.pop(endpoint, None)
        disconnect(endpoint)
        if monitor is not None:
            monitor.close()

    return staticmethod(disconnected)


def _forgetting_first(add: Any) -> Any:
    """What waits for a prefill that is gone fails; this request is for the one that follows."""

    @functools.wraps(add)
    def added(queue: Any, req: Any, *args: Any, **named: Any) -> Any:
        from sglang.srt.utils.network import NetworkAddress

        # A request that is refused comes here too, and may name no prefill.
        if req.bootstrap_host is not None:
            address = NetworkAddress(req.bootstrap_host, req.bootstrap_port).to_host_port_str()
            if _is_gone(queue.kv_manager, address):
                queue.kv_manager._handle_node_failure(address)
        return add(queue, req, *args, **named)

    return added


def _is_gone(manager: Any, bootstrap_addr: str) -> bool:
    """Whether a connection to one of a prefill's ranks has ended."""
    from sglang.srt.utils.network import NetworkAddress

    with manager.connection_lock:
        ranks = {
            NetworkAddress(rank["rank_ip"], int(rank["rank_port"])).to_tcp()
            for key, ranks in manager.connection_pool.items()
            if key.startswith(f"{bootstrap_addr}_")
            for rank in ranks
        }
    with _lock:
        return any(_has_ended(_monitors[rank]) for rank in ranks & _monitors.keys())


def _has_ended(monitor: Any) -> bool:
    import zmq

    with contextlib.suppress(zmq.Again):
        monitor.recv_multipart(zmq.NOBLOCK)
        return True
    return False
