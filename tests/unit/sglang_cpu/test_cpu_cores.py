"""How many threads a long step has, by what runs beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from pdcache.sglang_cpu import cores
from pdcache.sglang_cpu.cores import LONG_STEP, MOST_THREADS, TOKENS_A_THREAD
from pdcache.sglang_cpu.native import kernels

SHORT = LONG_STEP - 1
"""New tokens of a step that takes a core only where it finds one free."""


@pytest.fixture
def beside(monkeypatch):
    """Sets how many other tasks run."""

    def others(count):
        monkeypatch.setattr(cores, "running", lambda: 1 + count)

    others(0)
    return others


@pytest.fixture
def clock(monkeypatch):
    """Seconds that passed, and that this process had a core; pauses between looks take none."""
    now = SimpleNamespace(passed=100.0, used=7.0)
    monkeypatch.setattr(cores.time, "monotonic", lambda: now.passed)
    monkeypatch.setattr(cores.time, "process_time", lambda: now.used)
    monkeypatch.setattr(cores.time, "sleep", lambda _: None)
    return now


@pytest.mark.parametrize(
    ("own", "new", "machine", "others", "threads"),
    [
        (1, SHORT, 2, 0, 2),
        (1, SHORT, 2, 1, 1),
        (1, SHORT, 4, 0, 4),
        (1, SHORT, 4, 1, 3),
        (1, SHORT, 4, 9, 1),
        (1, SHORT, 16, 0, MOST_THREADS),
        (1, 3 * TOKENS_A_THREAD, 8, 0, 3),
        (1, 3 * TOKENS_A_THREAD, 8, 6, 2),
        (2, SHORT, 4, 0, 4),
        (2, SHORT, 4, 3, 2),
        (1, LONG_STEP, 4, 9, 4),
        (1, LONG_STEP, 16, 20, MOST_THREADS),
    ],
)
def test_each_free_core_helps_and_a_long_step_tries_all(beside, own, new, machine, others, threads):
    beside(others)
    assert cores.Step(own, new, machine).look() == threads


@pytest.mark.parametrize(
    ("others", "waited_s", "threads", "looks"),
    [
        ([0, 1, 1], 1, 2, 1),
        ([1, 0, 1], 1, 2, 2),
        ([9, 2, 0], 1, 2, 3),
        ([1, 2, 1, 0], 1, 1, 3),
        ([1, 0, 0], 0.001, 1, 1),
    ],
    ids=["free", "free at another look", "free at the last", "busy", "a short layer"],
)
def test_what_runs_for_a_moment_does_not_count_beside_a_long_layer(
    monkeypatch, clock, others, waited_s, threads, looks
):
    step, left = cores.Step(1, SHORT, 2), [1, 1, 1, *others]
    monkeypatch.setattr(cores, "running", lambda: 1 + left.pop(0))
    assert step.look() == 1
    clock.passed += waited_s
    assert step.look() == threads
    assert len(left) == len(others) - looks


@pytest.mark.parametrize(
    ("machine", "passed", "used", "threads"),
    [
        (2, 0.15, 0.27, 2),
        (2, 0.15, 0.15, 1),
        (2, 0.15, 0.12, 1),
        (2, 0.08, 0.04, 2),
        (4, 0.15, 0.54, 4),
        (4, 0.15, 0.45, 3),
        (4, 0.15, 0.30, 2),
        (4, 0.15, 0.03, 1),
    ],
)
@pytest.mark.parametrize("new", [SHORT, LONG_STEP], ids=["found free", "tried"])
def test_a_core_that_something_else_takes_is_given_back(
    beside, clock, new, machine, passed, used, threads
):
    step = cores.Step(1, new, machine)
    assert step.look() == machine
    beside(9)  # What waits for a core counts as running: only what was taken tells.
    clock.passed += passed
    clock.used += used
    assert step.look() == threads


def test_a_core_that_was_given_back_must_be_found_free_several_times(beside, clock):
    step = cores.Step(1, SHORT, 2)
    step.look()
    clock.passed += 0.15
    found = []
    for others in (0, 0, 0, 1, 0, 0, 0, 0):
        beside(others)
        found.append(step.look())
        clock.passed += 0.15
        clock.used += 0.15 * found[-1]
    assert found == [1, 1, 1, 1, 1, 1, 2, 2]


def test_threads_are_taken_within_a_step_only(beside, clock):
    before = torch.get_num_threads()
    try:
        with cores.helped(1, LONG_STEP, 2):
            assert torch.get_num_threads() == 2
            cores.adapt()
            assert torch.get_num_threads() == 2
            clock.passed += 1
            cores.adapt()
            assert torch.get_num_threads() == 1
        cores.adapt()
        assert torch.get_num_threads() == 1
        with cores.helped(1, 2 * TOKENS_A_THREAD - 1, 2):
            cores.adapt()
            assert torch.get_num_threads() == 1
    finally:
        kernels().use_threads(before)


def test_a_step_that_fails_leaves_no_more_threads_than_before(beside):
    before = torch.get_num_threads()
    try:
        with pytest.raises(ZeroDivisionError), cores.helped(1, LONG_STEP, 3):
            cores.adapt()
            cores.adapt()
            raise ZeroDivisionError
        assert torch.get_num_threads() == 1
    finally:
        kernels().use_threads(before)


def test_tasks_that_run_are_counted():
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(len(os.sched_getaffinity(0)) + 2)
    ]
    try:
        seen = max(cores.running() for _ in range(2000))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert seen > len(busy) // 2


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 6),
        ("150000 100000", 1),
        ("350000 100000", 3),
        ("50000 100000", 1),
        ("900000 100000", 6),
    ],
)
def test_cores_are_those_within_the_quota(monkeypatch, tmp_path, quota, expected):
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert cores.usable() == expected


def test_where_no_quota_is_told_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "none")
    assert cores.usable() == len(os.sched_getaffinity(0))
