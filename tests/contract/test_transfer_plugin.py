"""The plugin against the installed SGLang: a transfer's end is not overwritten by its middle, and
no socket is kept to a worker that is gone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from pdcache.sglang.keys_plugin import KEYS_ENV
from pdcache.sglang_cpu import pythonpath_folder, worker_environment

# One thread reads the status and is held there while another one sets it.
ASK = """
import json, sys, threading, time
from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import CommonKVManager
from pdcache.sglang import transfer_plugin

transfer_plugin.register()
transfer_plugin.register()

class Slow(dict):
    def get(self, room):
        value = super().get(room)
        if threading.current_thread().name == "slow":
            time.sleep(0.3)
        return value

def end(first, second):
    manager = object.__new__(CommonKVManager)
    manager.request_status = Slow({7: KVPoll.WaitingForInput})
    manager.deferred_bootstrap = None
    slow = threading.Thread(target=manager.update_status, args=(7, first), name="slow")
    slow.start()
    time.sleep(0.1)
    manager.update_status(7, second)
    slow.join()
    return dict(manager.request_status)[7] == second

print(json.dumps([
    end(KVPoll.Transferring, KVPoll.Success), end(KVPoll.Transferring, KVPoll.Failed),
]))
"""


# Two workers are told something, one of them goes, and a third one is told something.
TELL = """
import json, os, threading, time, zmq
from sglang.srt.disaggregation.common.conn import CommonKVManager
from pdcache.sglang import transfer_plugin

transfer_plugin.register()

def worker():
    socket = zmq.Context.instance().socket(zmq.PULL)
    return socket, f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"

manager = object.__new__(CommonKVManager)
manager._zmq_ctx, manager.defer_decode_allocation = zmq.Context(), False
manager._socket_cache, manager._monitor_cache, manager._socket_send_locks = {}, {}, {}
manager._socket_lock = threading.Lock()
(lost, its), (stays, other) = worker(), worker()
for socket, address in (lost, its), (stays, other):
    manager._send_multipart_locked(address, [b"one"])
    assert socket.recv() == b"one"
lost.close(linger=0)
time.sleep(0.3)
third, last = worker()
manager._send_multipart_locked(last, [b"two"])
manager._send_multipart_locked(other, [b"three"])
assert (third.recv(), stays.recv()) == (b"two", b"three")
known = {its: "lost", other: "stays", last: "last"}
print(json.dumps([[known[one] for one in cache] for cache in (
    manager._socket_cache, manager._monitor_cache)]), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("plugged", [True, False])
def test_the_last_status_of_a_transfer_stays(plugged: bool, tmp_path: object) -> None:
    """Without the plugin it does not: then SGLang has no need of it any more, or changed."""
    assert answer(ASK, plugged, tmp_path) == [plugged, plugged]


@pytest.mark.parametrize("plugged", [True, False])
def test_a_socket_to_a_worker_that_is_gone_is_closed(plugged: bool, tmp_path: object) -> None:
    """Without the plugin it is not: then SGLang has no need of it any more, or changed."""
    kept = ["stays", "last"] if plugged else ["lost", "stays", "last"]
    assert answer(TELL, plugged, tmp_path) == [kept, kept]


def answer(program: str, plugged: bool, folder: object) -> Any:
    """What a program prints last, in an interpreter with or without the plugin."""
    env = {**os.environ, **worker_environment(), "PYTHONPATH": str(pythonpath_folder())}
    env.pop(KEYS_ENV, None)
    if plugged:
        env[KEYS_ENV] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd="/", capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
