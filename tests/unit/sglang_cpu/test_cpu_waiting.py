"""How long a scheduler pauses that has nothing to compute."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import zmq

from pdcache.sglang_cpu import waiting
from pdcache.sglang_cpu.waiting import (
    LONGEST_PAUSE_S,
    PAUSE_S,
    TOLD_LONGEST_PAUSE_S,
    Bell,
    Wait,
    awaits_prefill_only,
)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (False, [PAUSE_S, PAUSE_S, 0.002, 0.004, LONGEST_PAUSE_S]),
        (True, [PAUSE_S, 0.005, 0.02, 0.04, TOLD_LONGEST_PAUSE_S]),
    ],
    ids=["it has to look", "it is told"],
)
def test_pauses_grow_with_the_wait_and_stay_short(told, expected):
    wait = Wait()
    pauses = [wait.pause_s(3, 1000 + waited, told=told) for waited in (0, 0.05, 0.2, 0.4, 60)]
    assert pauses == pytest.approx(expected)


@pytest.mark.parametrize("begins", ["with a batch", "with a request after an idle time"])
def test_a_wait_begins_anew(begins):
    wait = Wait()
    wait.pause_s(3, 1000)
    assert wait.pause_s(3, 1060) == LONGEST_PAUSE_S
    if begins == "with a request after an idle time":
        wait.over()
    assert wait.pause_s(4 if begins == "with a batch" else 3, 2000) == PAUSE_S


@pytest.fixture
def sockets():
    with (
        zmq.Context() as context,
        context.socket(zmq.PULL) as ours,
        context.socket(zmq.PUSH) as own,
    ):
        ours.bind("inproc://requests")
        own.connect("inproc://requests")
        yield ours, own


def paused_s(bell, sockets, seconds=30.0):
    start = time.monotonic()
    bell.pause(seconds, sockets)
    return time.monotonic() - start


def test_a_pause_ends_by_the_bell_by_a_request_or_in_time(sockets):
    ours, own = sockets
    bell = Bell()
    threading.Timer(0.05, bell.ring).start()
    assert paused_s(bell, [ours]) < 20
    assert paused_s(bell, [ours], 0.02) >= 0.01, "it rang once"
    bell.ring()
    bell.ring()
    assert paused_s(bell, []) < 20, "it rang before the pause"
    own.send(b"a request")
    assert paused_s(bell, [ours]) < 20
    assert ours.recv() == b"a request", "the scheduler reads it, not the pause"


def scheduler(**others):
    queue = SimpleNamespace(queue=[], retracted_queue=[])
    made = {
        "disagg_decode_transfer_queue": SimpleNamespace(queue=["a request"]),
        "disagg_decode_prealloc_queue": queue,
        "decode_offload_manager": SimpleNamespace(ongoing_offload={}),
        "waiting_queue": [],
    }
    return SimpleNamespace(**made | others)


@pytest.mark.parametrize(
    ("others", "only"),
    [
        ({}, True),
        ({"decode_offload_manager": None}, True),
        ({"decode_offload_manager": SimpleNamespace(ongoing_offload={1: "pages"})}, False),
        ({"waiting_queue": ["another"]}, False),
        (
            {"disagg_decode_prealloc_queue": SimpleNamespace(queue=[1], retracted_queue=[])},
            False,
        ),
        ({"disagg_decode_transfer_queue": SimpleNamespace(queue=[])}, False),
        ({"disagg_decode_transfer_queue": None}, False),
    ],
    ids=["a transfer", "no offload", "pages on their way", "a request that waits", "no room yet",
         "nothing", "prefill"],
)  # fmt: skip
def test_decode_is_told_of_transfers_and_has_to_look_for_all_else(others, only):
    assert awaits_prefill_only(scheduler(**others)) is only


def test_a_status_ends_the_pause_of_its_process(monkeypatch):
    kept, idled, states = {}, [], []
    targets = {
        "IDLE": lambda self: idled.append(self),
        "FULLY_IDLE": lambda self: False,
        "STATUS": lambda self, room, status: states.append((room, status)),
    }
    for name, value in targets.items():
        target = SimpleNamespace(
            get=lambda value=value: value, set=lambda new, name=name: kept.update({name: new})
        )
        monkeypatch.setattr(waiting, name, target)
    monkeypatch.setattr(waiting, "_bell", None)
    waiting.pause_between_looks()
    kept["STATUS"](None, 1, "before any pause")
    own = scheduler(forward_ct=1, idle_sleeper=None)
    kept["IDLE"](own)
    monkeypatch.setattr(waiting.Wait, "pause_s", lambda *_, **__: 30)
    threading.Timer(0.05, kept["STATUS"], (None, 2, "Success")).start()
    start = time.monotonic()
    kept["IDLE"](own)
    assert time.monotonic() - start < 20
    assert states == [(1, "before any pause"), (2, "Success")]
    assert idled == [own, own]
