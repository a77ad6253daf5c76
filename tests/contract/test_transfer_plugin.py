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


# Two workers are told something, one of them goes, with or without a message that comes too late,
# and a third one is told something.
TELL = """
import json, os, sys, threading, time, zmq
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
if sys.argv[1:] == ["late"]:
    manager._send_multipart_locked(its, [b"late"])
third, last = worker()
manager._send_multipart_locked(last, [b"two"])
manager._send_multipart_locked(other, [b"three"])
assert (third.recv(), stays.recv()) == (b"two", b"three")
deadline = time.monotonic() + 1
while its in manager._monitor_cache and time.monotonic() < deadline:
    time.sleep(0.01)
manager._send_multipart_locked(other, [b"four"])
assert stays.recv() == b"four"
known = {its: "lost", other: "stays", last: "last"}
print(json.dumps([[known[one] for one in cache] for cache in (
    manager._socket_cache, manager._monitor_cache)]), flush=True)
os._exit(0)
"""


# A prefill has sent a decode some KV. That decode ends, or stays, and is taken for lost.
SENT = """
import ctypes, json, os, subprocess, sys, time
from types import SimpleNamespace
import psutil
from sglang.srt.distributed.device_communicators import mooncake_transfer_engine
from pdcache.sglang import lost_workers

SIZE = 1 << 16
memory = ctypes.create_string_buffer(b"k" * SIZE)
address = ctypes.addressof(memory)
engine = mooncake_transfer_engine.init_mooncake_transfer_engine("127.0.0.1")
engine.register(address, SIZE)
if sys.argv[1] == "decode":
    print(engine.get_session_id(), address, flush=True)
    sys.stdin.readline()
    print(memory.raw[:SIZE] == b"p" * SIZE, flush=True)
    os._exit(0)

memory.raw = b"p" * len(memory.raw)
decode = subprocess.Popen(
    [sys.executable, *sys.orig_argv[1:-1], "decode"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
)
session, there = decode.stdout.readline().split()
there = int(there)
for _ in range(5):
    assert engine.batch_transfer_sync(
        session, [address + at for at in range(0, SIZE, SIZE // 8)],
        [there + at for at in range(0, SIZE, SIZE // 8)], [SIZE // 8] * 8,
    ) == 0
if sys.argv[1] == "gone":
    decode.kill()
    decode.wait()

def lanes():
    return sum(bool(one.raddr) for one in psutil.Process().net_connections("tcp"))

before = lanes()
known = SimpleNamespace(endpoint="127.0.0.1", dst_port=7, dst_kv_ptrs=[there])
manager = SimpleNamespace(engine=engine, decode_kv_args_table={session: known})
lost_workers.close_connections(manager, "tcp://127.0.0.1:7")
for _ in range(20):  # Mooncake closes them in a thread of its own.
    if sys.argv[1] != "gone" or not lanes():
        break
    time.sleep(0.1)
after = lanes()
untouched = True
if sys.argv[1] != "gone":
    decode.stdin.write("end\\n")
    decode.stdin.flush()
    untouched = decode.stdout.readline() == "True\\n"
print(json.dumps([before, after, untouched]), flush=True)
os._exit(0)
"""


# Decode knows a prefill, and has a request there. Then it is gone, and another one has its address.
AGAIN = """
import collections, json, subprocess, sys, threading, time
from types import SimpleNamespace
from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import CommonKVManager, CommonKVReceiver
from sglang.srt.disaggregation.decode import DecodePreallocQueue
from sglang.srt.managers.schedule_batch import FINISH_ABORT
from pdcache.sglang import transfer_plugin

transfer_plugin.register()
RANK = "import zmq; s = zmq.Context().socket(zmq.PULL); " \
       "print(s.bind_to_random_port('tcp://127.0.0.1'), flush=True); s.recv(); s.recv()"
address = "127.0.0.1:9"
rank = subprocess.Popen([sys.executable, "-c", RANK], stdout=subprocess.PIPE, text=True)
manager = object.__new__(CommonKVManager)
manager.connection_lock, manager.deferred_bootstrap = threading.Lock(), None
manager.heartbeat_failures, manager.failure_records = {}, {}
manager.failure_lock = threading.Lock()
manager.addr_to_rooms_tracker, manager.request_status = collections.defaultdict(set), {}
manager.prefill_info_table = {address: SimpleNamespace(dp_size=1)}
queue, known = object.__new__(DecodePreallocQueue), []
queue.kv_manager, queue.pending_reqs = manager, []
queue._check_if_req_exceed_kv_capacity = lambda req: False
queue._init_receiver = lambda request, rank: known.append(request)

def receive(req, is_rebootstrap):
    manager.request_status[req.bootstrap_room] = KVPoll.Bootstrapping
    manager.addr_to_rooms_tracker[address].add(req.bootstrap_room)
    return req.bootstrap_room

queue._create_receiver_and_enqueue = receive

def add(room):
    queue.add(SimpleNamespace(
        bootstrap_host="127.0.0.1", bootstrap_port=9, bootstrap_room=room,
        disagg_prefill_dp_rank=None, finished_reason=None, to_finish=None,
    ))
info = {"rank_ip": "127.0.0.1", "rank_port": int(rank.stdout.readline())}
manager.connection_pool = {f"{address}_0_0_0": [info]}
sock, _ = CommonKVReceiver._connect_to_bootstrap_server(info)
sock.send_multipart([b"a request"])
time.sleep(0.5)
add(7)
rank.kill()
rank.wait()
time.sleep(0.5)
add(8)
refused = []
queue.scheduler = SimpleNamespace(retire_unadmitted_request=refused.append)
queue.add(SimpleNamespace(
    bootstrap_host=None, bootstrap_port=None, to_finish=None, finished_reason=FINISH_ABORT(),
    is_retracted=False, metadata_buffer_index=-1,
    kv=SimpleNamespace(holds_kv=False, holds_mamba=False, retraction_backup=None),
))
assert len(refused) == 1
failed = [room for room, status in manager.request_status.items() if status == KVPoll.Failed]
print(json.dumps([
    known, queue.pending_reqs, failed, len(manager.connection_pool),
    len(CommonKVReceiver._socket_cache),
]))
"""


def test_a_prefill_that_is_back_soon_is_taken_for_another(tmp_path: object) -> None:
    assert answer(AGAIN, True, tmp_path) == [[7], [8], [7], 0, 0]


def test_what_the_cpu_lane_replaces_first_does_not_keep_the_plugin_out(tmp_path: object) -> None:
    lane = "from pdcache.sglang_cpu import waiting; waiting.pause_between_looks()\n"
    assert answer(lane + AGAIN, True, tmp_path) == [[7], [8], [7], 0, 0]
    assert answer(lane + ASK, True, tmp_path) == [True, True]


def test_without_the_plugin_decode_goes_on_with_the_prefill_that_is_gone(tmp_path: object) -> None:
    """If this fails, SGLang notices by itself."""
    assert answer(AGAIN, False, tmp_path) == [[7, 8], [], [], 1, 1]


@pytest.mark.parametrize("plugged", [True, False])
def test_the_last_status_of_a_transfer_stays(plugged: bool, tmp_path: object) -> None:
    """Without the plugin it does not: then SGLang has no need of it any more, or changed."""
    assert answer(ASK, plugged, tmp_path) == [plugged, plugged]


@pytest.mark.parametrize("when", ["never", "late"])
@pytest.mark.parametrize("plugged", [True, False])
def test_a_socket_to_a_worker_that_is_gone_is_closed(
    plugged: bool, when: str, tmp_path: object
) -> None:
    """Without the plugin it is not: then SGLang has no need of it any more, or changed."""
    kept = {"stays", "last"} if plugged else {"lost", "stays", "last"}
    assert [set(one) for one in answer(TELL, plugged, tmp_path, when)] == [kept, kept]


def test_connections_to_a_decode_that_is_gone_are_closed(tmp_path: object) -> None:
    """Some are there before: else Mooncake closes them itself, and nobody has to."""
    before, after, _ = answer(SENT, True, tmp_path, "gone")
    assert before > after == 0


def test_a_decode_that_is_still_there_loses_nothing(tmp_path: object) -> None:
    """Mooncake opens a connection when it needs one more, so there may be fewer than four."""
    before, after, untouched = answer(SENT, True, tmp_path, "there")
    assert after >= before > 0
    assert untouched


def answer(program: str, plugged: bool, folder: object, *words: str) -> Any:
    """What a program prints last, in an interpreter with or without the plugin."""
    env = {**os.environ, **worker_environment(), "PYTHONPATH": str(pythonpath_folder())}
    env.pop(KEYS_ENV, None)
    if plugged:
        env[KEYS_ENV] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", program, *words], env=env, cwd="/", capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
