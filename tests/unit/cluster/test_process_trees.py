"""What is wrong inside a tree whose head still runs, seen on real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pdcache.cluster import tree as module
from pdcache.cluster.supervisor import descendants
from pdcache.cluster.tree import Tree, TreeState
from tests.real_processes import alive, until

# A head with children of the given names, as SGLang names its own; it reaps none of them.
HEAD = """
import ctypes, os, signal, sys
for name in sys.argv[1:]:
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, name.encode())
        signal.pause()
signal.pause()
"""
SCHEDULER, DETOKENIZER = "sglang::schedul", "sglang::detoken"
Start = Callable[..., int]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look lists the tree anew."""
    lists_every(monkeypatch, -1.0)


def lists_every(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for limit in ("LIST_S", "SETTLE_S"):
        monkeypatch.setattr(module, limit, seconds)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a head with named children; all of it ends with the test."""
    heads: list[subprocess.Popen[bytes]] = []

    def run(*children: str) -> int:
        head = subprocess.Popen([sys.executable, "-c", HEAD, *children])
        heads.append(head)
        until("the children run", lambda: set(children) <= set(names(head.pid)))
        return head.pid

    yield run
    for head in heads:
        for pid in [head.pid, *descendants(head.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.wait()


def names(head: int) -> list[str]:
    return [Path(f"/proc/{pid}/comm").read_text().strip() for pid in descendants(head)]


def child(head: int, name: str) -> int:
    return dict(zip(names(head), descendants(head), strict=True))[name]


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    until("it is stopped", lambda: Path(f"/proc/{pid}/stat").read_text().split(")")[-1][1] == "T")


def test_a_tree_that_runs_is_well(start: Start) -> None:
    head, tree = start(SCHEDULER), Tree()
    assert [tree.look(head) for _ in range(3)] == [TreeState()] * 3


def test_a_stopped_head_is_frozen_on_the_second_look_that_sees_it(start: Start) -> None:
    head, tree = start(), Tree()
    tree.look(head)
    stop(head)
    assert [tree.look(head).frozen for _ in range(3)] == [False, True, True]


def test_a_stopped_child_freezes_its_tree(start: Start) -> None:
    head, tree = start(SCHEDULER, DETOKENIZER), Tree()
    tree.look(head)
    stop(child(head, SCHEDULER))
    assert [tree.look(head) for _ in range(2)] == [TreeState(), TreeState(frozen=True)]


def test_a_process_that_goes_on_is_frozen_no_longer(start: Start) -> None:
    head, tree = start(), Tree()
    stop(head)
    until("it is seen", lambda: tree.look(head).frozen)
    os.kill(head, signal.SIGCONT)
    until("it runs", lambda: not tree.look(head).frozen)
    assert tree.look(head) == TreeState()


def test_a_stop_for_an_instant_is_nothing(start: Start) -> None:
    head, tree = start(), Tree()
    tree.look(head)
    stop(head)
    tree.look(head)
    os.kill(head, signal.SIGCONT)
    until("it runs", lambda: Path(f"/proc/{head}/stat").read_text().split(")")[-1][1] == "S")
    assert tree.look(head) == TreeState()


def known(tree: Tree, head: int) -> None:
    """A tree that was listed twice with its children: from then on they must be there."""
    for _ in range(2):
        tree.look(head)


@pytest.mark.parametrize("name", [SCHEDULER, DETOKENIZER])
def test_a_server_without_its_scheduler_or_detokenizer_is_torn_and_stays_so(
    start: Start, name: str
) -> None:
    head, tree = start(SCHEDULER, DETOKENIZER), Tree()
    known(tree, head)
    gone = child(head, name)
    os.kill(gone, signal.SIGKILL)
    until("it is a zombie", lambda: not alive(gone))
    assert [tree.look(head).torn for _ in range(3)] == [True, True, True]
    assert alive(head)


def test_a_scheduler_that_is_lost_soon_after_the_start_is_missed_too(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIST_S", 1000.0)
    head, tree = start(SCHEDULER), Tree()
    known(tree, head)
    monkeypatch.setattr(module, "descendants", lambda pid: pytest.fail("listed again"))
    gone = child(head, SCHEDULER)
    os.kill(gone, signal.SIGKILL)
    until("it is a zombie", lambda: not alive(gone))
    assert tree.look(head).torn


def test_a_child_of_that_name_that_one_list_saw_may_go_again(start: Start) -> None:
    head, tree = start(SCHEDULER), Tree()
    tree.look(head)
    gone = child(head, SCHEDULER)
    os.kill(gone, signal.SIGKILL)
    until("it is a zombie", lambda: not alive(gone))
    assert not tree.look(head).torn


def test_one_that_died_between_two_lists_is_missed_in_the_second(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, tree = start(SCHEDULER), Tree()
    known(tree, head)
    gone = child(head, SCHEDULER)
    monkeypatch.setattr(module, "descendants", lambda pid: [])
    tree.look(head)
    os.kill(gone, signal.SIGKILL)
    until("it is a zombie", lambda: not alive(gone))
    assert tree.look(head).torn


def test_other_children_come_and_go(start: Start) -> None:
    head, tree = start(SCHEDULER, "ninja"), Tree()
    tree.look(head)
    gone = child(head, "ninja")
    os.kill(gone, signal.SIGKILL)
    until("it is gone", lambda: not alive(gone))
    assert [tree.look(head) for _ in range(3)] == [TreeState()] * 3


def test_a_process_that_is_gone_is_neither_frozen_nor_torn(start: Start) -> None:
    head, tree = start(), Tree()
    tree.look(head)
    os.kill(head, signal.SIGKILL)
    until("it is gone", lambda: not alive(head))
    assert [tree.look(head) for _ in range(3)] == [TreeState()] * 3


def test_a_new_head_is_looked_at_without_the_past_of_the_one_before(start: Start) -> None:
    first, second, tree = start(SCHEDULER), start(SCHEDULER), Tree()
    known(tree, first)
    gone = child(first, SCHEDULER)
    os.kill(gone, signal.SIGKILL)
    until("it is a zombie", lambda: not alive(gone))
    assert tree.look(first).torn
    assert [tree.look(second) for _ in range(3)] == [TreeState()] * 3


def test_between_two_lists_only_known_processes_are_looked_at(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, tree = start(SCHEDULER), Tree()
    tree.look(head)
    lists_every(monkeypatch, 1000.0)
    monkeypatch.setattr(module, "descendants", lambda pid: pytest.fail("listed again"))
    assert tree.look(head) == TreeState()
    stop(child(head, SCHEDULER))
    assert [tree.look(head).frozen for _ in range(2)] == [False, True]
