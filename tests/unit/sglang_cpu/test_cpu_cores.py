"""How many threads a long step has, by what runs beside it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from pdcache.sglang_cpu import cores
from pdcache.sglang_cpu.native import kernels


@pytest.fixture
def beside(monkeypatch):
    """Sets how many other tasks run."""

    def others(count):
        monkeypatch.setattr(cores, "running", lambda: 1 + count)

    others(0)
    return others


@pytest.mark.parametrize(
    ("own", "most", "machine", "others", "threads"),
    [
        (1, 8, 2, [0, 1, 0, 5], [2, 1, 2, 1]),
        (1, 8, 4, [0, 1, 3, 9, 2], [4, 3, 1, 1, 2]),
        (1, 3, 8, [0, 6, 7, 0], [3, 2, 1, 3]),
        (2, 8, 4, [0, 3, 1], [4, 2, 3]),
    ],
    ids=["two cores", "four cores", "a short step", "two threads of its own"],
)
def test_each_free_core_helps(beside, own, most, machine, others, threads):
    step, found = cores.Step(own, most, machine), []
    for count in others:
        beside(count)
        found.append(step.look())
    assert found == threads


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
    monkeypatch, others, waited_s, threads, looks
):
    step, now, left = cores.Step(1, 8, 2), [100.0], [0, *others]
    monkeypatch.setattr(cores, "running", lambda: 1 + left.pop(0))
    monkeypatch.setattr(cores.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cores.time, "sleep", lambda _: None)
    step.look()
    now[0] += waited_s
    assert step.look() == threads
    assert len(left) == len(others) - looks


def test_threads_are_taken_within_a_step_only(beside):
    before = torch.get_num_threads()
    try:
        with cores.helped(1, 4, 2):
            cores.adapt()
            assert torch.get_num_threads() == 2
            beside(1)
            cores.adapt()
            assert torch.get_num_threads() == 1
            beside(0)
        cores.adapt()
        assert torch.get_num_threads() == 1
        with cores.helped(1, 1, 2):
            cores.adapt()
            assert torch.get_num_threads() == 1
    finally:
        kernels().use_threads(before)


def test_a_step_that_fails_leaves_no_more_threads_than_before(beside):
    before = torch.get_num_threads()
    try:
        with pytest.raises(ZeroDivisionError), cores.helped(1, 4, 3):
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
