"""Threads that wait for L3 leave cores: lower priority, no more at a time than there are places."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pdcache.sglang_cpu import storage_threads
from pdcache.sglang_cpu.storage_threads import STEP_BACK, turn


@pytest.mark.parametrize("places", [1, 3])
def test_no_more_have_a_turn_at_a_time_than_there_are_places(tmp_path, places):
    lock, now, most = threading.Lock(), 0, 0

    def wait(_):
        nonlocal now, most
        with turn(tmp_path, places):
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.02)
            with lock:
                now -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(wait, range(16)))
    assert most == places


HOLD = """
import sys, time
from pathlib import Path
from pdcache.sglang_cpu.storage_threads import turn
with turn(Path(sys.argv[1]), 1):
    print("has it", flush=True)
    time.sleep(60)
"""


def test_processes_share_the_places_and_one_that_dies_gives_its_place_back(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "has it\n"
        began = time.monotonic()
        with turn(tmp_path, 1, limit_s=0.3):
            assert time.monotonic() - began >= 0.3, "a place that is taken was given away"
        other.kill()
        other.wait()
        began = time.monotonic()
        with turn(tmp_path, 1, limit_s=30):
            assert time.monotonic() - began < 5


def test_an_error_gives_the_place_back(tmp_path):
    with pytest.raises(RuntimeError), turn(tmp_path, 1):
        raise RuntimeError
    began = time.monotonic()
    with turn(tmp_path, 1, limit_s=30):
        assert time.monotonic() - began < 5


def test_a_loop_lowers_the_priority_of_its_own_thread_only():
    own, seen = os.getpriority(os.PRIO_PROCESS, 0), []

    def loop(self):
        seen.append((self, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))

    thread = threading.Thread(target=storage_threads._with_low_priority(loop), args=("me",))
    thread.start()
    thread.join()
    assert seen == [("me", min(19, own + STEP_BACK))]
    assert os.getpriority(os.PRIO_PROCESS, 0) == own
