"""A live cluster under load, and what the load saw of each change."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from pdcache.cluster.manifest import listed
from pdcache.plan import Plan
from pdcache.topology import Role
from tests.cluster_tools import Shell, kill, wait_for
from tests.controller import Controller
from tests.dialogues import Running
from tests.load import Load, Turn

TURNS_AFTER = 3
"""Answers that a change must be followed by before it counts as done."""


@dataclass
class Span:
    """What one change was, and when it ran."""

    what: str
    began_s: float
    ended_s: float = 0.0

    def turns(self, load: Load) -> list[Turn]:
        """The requests that ran while it did."""
        return [
            turn for turn in load.done
            if turn.ended_s > self.began_s and turn.began_s < self.ended_s
        ]  # fmt: skip


@dataclass
class Watched:
    """One cluster, the load on it, and the changes so far.

    Attributes:
        attached: from when to when every worker had L3; the last one is open.
        broken: the change that failed; what builds on it is not run.
        told: requests that failed and made a test fail.
    """

    shell: Shell
    name: str
    load: Load
    controller: Controller
    spans: list[Span] = field(default_factory=list)
    attached: list[list[float]] = field(default_factory=lambda: [[time.monotonic(), float("inf")]])
    broken: str | None = None
    told: list[Turn] = field(default_factory=list)

    @contextmanager
    def change(self, what: str) -> Iterator[None]:
        """A change for a with block: the load goes on through it and after it, without an error."""
        span = Span(what, time.monotonic())
        self.spans.append(span)
        try:
            yield
        except BaseException:
            self.broken = what
            raise
        finally:
            span.ended_s = time.monotonic()
        self.load.wait_for_turns(TURNS_AFTER, limit_s=60)
        self.assert_no_request_failed()
        self.assert_gateway_has_them()

    def assert_gateway_has_them(self) -> None:
        """The gateway sends to exactly the workers that are healthy and not held."""
        status, running = self.status(), self.controller.running()
        wanted = {
            one["url"] for one in status["workers"]
            if one["role"] in ("prefill", "decode") and one["state"] == "HEALTHY"
            and one["held"] is None
        }  # fmt: skip
        assert asyncio.run(_registered(running)) == wanted

    def assert_no_request_failed(self) -> None:
        """Every request that has ended got its answer; each one that did not is told once."""
        new = [turn for turn in self.load.done if turn.error and turn not in self.told]
        self.told += new
        assert not new, "requests failed:\n" + "\n".join(
            f"{turn}, sent {self._when(turn.began_s)}" for turn in new
        )

    def _when(self, at_s: float) -> str:
        before = [span for span in self.spans if span.began_s <= at_s]
        if not before:
            return "before any change"
        last = before[-1]
        if at_s <= (last.ended_s or at_s):
            return f"{at_s - last.began_s:.1f} s into {last.what}"
        return f"{at_s - last.ended_s:.1f} s after {last.what}"

    def storage_goes(self) -> None:
        """From now on some worker may be without L3."""
        self.attached[-1][1] = time.monotonic()

    def storage_is_back(self) -> None:
        """From now on every worker has L3."""
        self.attached.append([time.monotonic(), float("inf")])

    def status(self) -> dict[str, Any]:
        """The cluster as `status --json` shows it."""
        return self.controller.status().as_json()

    def plan(self) -> Plan:
        """The plan as it is now."""
        return self.controller.running().plan

    def controllers_so_far(self) -> int:
        """How many controllers there were."""
        starts = [one for one in self.controller.events() if one.subject == "controller"]
        return 1 + sum(one.kind == "restarted" for one in starts)

    def kill_controller_when(self, change: subprocess.Popen[str], step: str) -> None:
        """Kill the controller once a change tells of a step; another must take its place.

        Of a step that is over between two looks, only the end is told.
        """
        assert change.stdout is not None
        seen = []
        told = re.compile(rf"\] {re.escape(step)} (\.\.\.|done)")
        while not told.search(line := change.stdout.readline()):
            seen.append(line)
            assert line, f"the change ended before {step!r}:\n{''.join(seen)}"
        (old,) = self._controllers()
        kill(old)
        wait_for(lambda: self._controllers() not in ([], [old]), "another controller", limit_s=60)

    @contextmanager
    def no_server_starts(self) -> Iterator[None]:
        """The preloaded server stands still within the block, so those that ask it wait."""
        (preloaded,) = self._titled("pdcache::preloaded")
        os.kill(preloaded, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(preloaded, signal.SIGCONT)

    def _controllers(self) -> list[int]:
        return self._titled("ray::Controller")

    def _titled(self, title: str) -> list[int]:
        found = []
        for process in self.shell.processes():
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def whole_dialogues(self, while_attached: bool) -> list[list[Turn]]:
        """Dialogues, from first turn to last, that ran while all workers had L3, or the others."""
        dialogues: list[list[Turn]] = []
        for session in range(self.load.sessions):
            for turn in (turn for turn in self.load.done if turn.session == session):
                if turn.turn == 1:
                    dialogues.append([])
                dialogues[-1].append(turn)
        return [
            turns for turns in dialogues
            if while_attached is any(
                begin <= turns[0].began_s and turns[-1].ended_s <= end
                for begin, end in self.attached
            )
        ]  # fmt: skip

    def table(self) -> str:
        """A row for each change: how long, how many turns, what was reused of what could be."""
        rows = [
            f"{'change':44s} {'s':>6s} {'turns':>5s} {'failed':>6s} {'slowest s':>9s} "
            f"{'reused/ceiling':>20s}"
        ]
        for span in self.spans:
            turns = span.turns(self.load)
            failed = sum(turn.error is not None for turn in turns)
            slowest = max((turn.seconds for turn in turns), default=0.0)
            rows.append(
                f"{span.what:44s} {span.ended_s - span.began_s:6.1f} {len(turns):5d} {failed:6d} "
                f"{slowest:9.1f} {reuse(turns):>20s}"
            )
        return "\n".join(rows)


async def _registered(running: Running) -> set[str]:
    async with running.client(20) as client:
        known = await listed(running.plan.role(Role.GATEWAY)[0], client) or {}
        return {url for url, healthy in known.items() if healthy}


def reuse(turns: list[Turn]) -> str:
    """Cached tokens of later turns over those an unlimited cache could have served."""
    later = [turn for turn in turns if turn.turn > 1 and turn.error is None]
    cached, ceiling = sum(turn.cached for turn in later), sum(turn.ceiling for turn in later)
    return f"{cached}/{ceiling} = {cached / ceiling:.3f}" if ceiling else "-"


def places(status: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Pid and incarnation of every process of a cluster."""
    return {one["name"]: (one["pid"], one["incarnation"]) for one in status["workers"]}


def unchanged(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Names of processes that are the same in two states of a cluster."""
    old, new = places(before), places(after)
    return {name for name in old if new.get(name) == old[name]}


def assert_serving(status: dict[str, Any], *, prefill: int, decode: int) -> None:
    """So many workers of each role, all healthy and in the gateway, and nothing to complain of."""
    assert status["state"] == "UP", (status["state"], status["reasons"])
    workers = [one for one in status["workers"] if one["role"] in ("prefill", "decode")]
    counts = {role: sum(one["role"] == role for one in workers) for role in ("prefill", "decode")}
    assert counts == {"prefill": prefill, "decode": decode}
    assert all(one["state"] == "HEALTHY" and one["held"] is None for one in workers), workers


def assert_done(change: subprocess.Popen[str], title: str) -> None:
    """A change that was followed to its end succeeded."""
    rest = change.communicate(timeout=400)[0]
    assert change.returncode == 0, rest
    assert f"DONE {title}" in rest, rest


def assert_runs_as_planned(plan: Plan, status: dict[str, Any], worker: str) -> None:
    """The command line of a worker's process is that of the plan."""
    pid = places(status)[worker][0]
    process = next(one for one in plan.processes if one.name == worker)
    # A fork of a preloaded server has it as one word.
    assert " ".join(psutil.Process(pid).cmdline()).split() == " ".join(process.argv).split()
