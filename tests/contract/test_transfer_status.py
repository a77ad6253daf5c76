"""The plugin against the installed SGLang: a transfer's end is not overwritten by its middle."""

from __future__ import annotations

import json
import os
import subprocess
import sys

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


@pytest.mark.parametrize("plugged", [True, False])
def test_the_last_status_of_a_transfer_stays(plugged: bool, tmp_path: object) -> None:
    """Without the plugin it does not: then SGLang has no need of it any more, or changed."""
    env = {**os.environ, **worker_environment(), "PYTHONPATH": str(pythonpath_folder())}
    env.pop(KEYS_ENV, None)
    if plugged:
        env[KEYS_ENV] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=env, cwd="/", capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [plugged, plugged]
