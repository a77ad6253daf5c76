"""One fault on a live cluster under a multi-turn load, and everything that must hold around it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil

from pdcache.plan import Plan
from pdcache.sglang import idle
from pdcache.topology import Role
from tests.cluster_tools import Shell, tree_of, wait_for
from tests.dialogues import Running
from tests.load import Load, Turn, wrong_tokens
from tests.outcomes import PROCESS, RECOVERY_LIMIT_S, REUSE, STORE, Outcome

STOPPED_S = 15.0
STEADY_S = 5.0
"""How long it must stay UP once the store is back: that pages are gone is seen a little later."""

COMPARED = 40
"""Answers that are computed again without reuse: those nearest to the fault."""

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGSTOP": signal.SIGSTOP}


@dataclass
class Bench:
    """A cluster to hurt: its plan and keys, and the shell that started it."""

    shell: Shell
    running: Running

    @property
    def plan(self) -> Plan:
        """What runs."""
        return self.running.plan

    def asked(self, path: str, limit_s: float = 0.0) -> dict[str, Any] | None:
        """What the controller answers within a limit; by HTTP, for a command takes seconds.

        Ray's head also keeps connections of commands that have ended, for some minutes.
        """
        url = f"http://127.0.0.1:{self.plan.controller_port}{path}"
        key = {"Authorization": f"Bearer {self.running.keys.admin}"}
        deadline = time.monotonic() + limit_s
        while True:
            with contextlib.suppress(httpx.HTTPError):
                answer = httpx.get(url, headers=key, timeout=10, trust_env=False)
                assert answer.status_code == 200, answer.text
                told: dict[str, Any] = answer.json()
                return told
            if time.monotonic() > deadline:
                return None
            time.sleep(0.2)

    def status(self) -> dict[str, Any]:
        """The status; a controller that starts again is waited for."""
        status = self.asked("/status", RECOVERY_LIMIT_S)
        assert status is not None, "the controller does not answer"
        return status

    def worker(self, name: str) -> dict[str, Any]:
        """One process of the status."""
        return next(own for own in self.status()["workers"] if own["name"] == name)

    def is_in(self, state: str) -> bool:
        """The controller answers, and tells that state."""
        told = self.asked("/health")
        return told is not None and told["state"] == state

    def is_up(self) -> bool:
        """Nothing is wrong with the cluster."""
        return self.is_in("UP")

    def strike(self, kind: str, how: str) -> Outcome:
        """Do one fault under load, and tell what happened."""
        wait_for(self.is_up, "the cluster to be UP", limit_s=RECOVERY_LIMIT_S)
        outcome = Outcome(kind, how)
        before = Counter(_names(self.shell))
        pids_before, half_closed = self._pids(), _half_closed(self.shell)
        first_event = self._last_event()
        with Load(self.plan) as load:
            load.wait_for_turns(9)
            url, pids = self._victim(kind)
            start = self._start_of(kind)
            struck_s = time.monotonic()
            self._hit(pids, how)
            if url is not None:
                outcome.out_s = self._out_of_manifest(url, struck_s)
            if kind in STORE:
                wait_for(lambda: self.is_in("DEGRADED"), "DEGRADED", limit_s=STOPPED_S)
            if how == "SIGSTOP":
                time.sleep(max(0.0, struck_s + STOPPED_S - time.monotonic()))
                _signal(pids, signal.SIGCONT)
            if kind in STORE:
                wait_for(
                    lambda: self._returned(kind, how, start), f"{kind} to be back",
                    limit_s=RECOVERY_LIMIT_S,
                )  # fmt: skip
            returned_s = time.monotonic()
            steady_s = STEADY_S if kind in STORE else 0.0
            wait_for(
                lambda: self._recovered(kind, how, pids, start) and self._stays_up(steady_s),
                f"{kind} to recover", limit_s=RECOVERY_LIMIT_S,
            )  # fmt: skip
            recovered_s = time.monotonic() - steady_s
            outcome.recovered_s = recovered_s - struck_s
            if kind in STORE:
                load.wait_for_turns(18)
            load.wait_for_turns(9)
            wait_for(
                lambda: bool(_reusing(load.done, recovered_s)), "turns that can reuse",
                limit_s=RECOVERY_LIMIT_S,
            )  # fmt: skip
        self._judge(outcome, load, struck_s, recovered_s)
        if kind in STORE:
            outcome.reuse_back_s = reuse_back_s(load.done, returned_s)
        outcome.busy = asyncio.run(_busy(self.running))
        outcome.reasons = self._degraded_since(first_event)
        wait_for(self.is_up, "the cluster to be UP again", limit_s=RECOVERY_LIMIT_S)
        near = sorted(load.done, key=lambda turn: abs(turn.began_s - struck_s))
        outcome.wrong = wrong_tokens(self.plan, near[:COMPARED])
        outcome.lost_connections = len(_half_closed(self.shell) - half_closed)
        pids_after = self._pids()
        outcome.restarted = [name for name, pid in pids_before.items() if pids_after[name] != pid]
        outcome.orphans = sorted((Counter(_names(self.shell)) - before).elements())
        return outcome

    def _judge(self, outcome: Outcome, load: Load, struck_s: float, recovered_s: float) -> None:
        turns = load.done
        outcome.turns = len(turns)
        outcome.errors = [str(turn) for turn in turns if turn.error]
        outcome.slowest_s = max(turn.seconds for turn in turns)
        normal = median(_ttfts(turn for turn in turns if turn.ended_s < struck_s))
        during = _ttfts(turn for turn in turns if struck_s - 1 < turn.ended_s < recovered_s + 5)
        if during:
            outcome.ttft_above_s = max(during) - normal
        again = _reusing(turns, recovered_s)
        outcome.reuse = sum(t.cached for t in again) / sum(t.ceiling for t in again)

    def _victim(self, kind: str) -> tuple[str | None, list[int]]:
        """The address the gateway has of it, if it has one, and its pids."""
        if kind == "controller":
            return None, [p.pid for p in self.shell.processes() if _is_controller(p)]
        own = self.worker(PROCESS[kind])
        url = own["url"] if own["role"] in ("prefill", "decode") else None
        if kind.endswith("scheduler"):
            tree = tree_of(own["pid"])
            return url, [p.pid for p in tree if "scheduler" in " ".join(p.cmdline())]
        key = {"supervisor": "supervisor_pid", "actor": "actor_pid"}.get(kind, "pid")
        return url if key == "pid" else None, [own[key]]

    def _hit(self, pids: list[int], how: str) -> None:
        assert pids
        _signal(pids, SIGNALS[how])

    def _out_of_manifest(self, url: str, struck_s: float) -> float | None:
        manifest = Path(self.plan.manifest)
        while time.monotonic() - struck_s < 30:
            if f'"{url}"' not in manifest.read_text():
                return time.monotonic() - struck_s
            time.sleep(0.02)
        return None

    def _start_of(self, kind: str) -> int:
        return 0 if kind == "controller" else int(self.worker(PROCESS[kind])["incarnation"])

    def _returned(self, kind: str, how: str, start: int) -> bool:
        """The process serves again: the same one, or the next."""
        own = self.worker(PROCESS[kind])
        return own["state"] == "HEALTHY" and (how == "SIGSTOP" or own["incarnation"] != start)

    def _recovered(self, kind: str, how: str, pids: list[int], start: int) -> bool:
        """What died was started again, and nothing is wrong any more."""
        if how != "SIGSTOP":
            if kind == "controller":
                now = {p.pid for p in self.shell.processes() if _is_controller(p)}
                if not now or now & set(pids):
                    return False
            elif self._start_of(kind) == start:
                return False
        return self.is_up()

    def _stays_up(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (up := self.is_up()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return up

    def _pids(self) -> dict[str, int]:
        return {own["name"]: own["pid"] for own in self.status()["workers"]}

    def _events(self, since: int = 0) -> list[dict[str, Any]]:
        told = self.asked(f"/events?since={since}", RECOVERY_LIMIT_S)
        assert told is not None, "the controller does not answer"
        events: list[dict[str, Any]] = told["events"]
        return events

    def _last_event(self) -> int:
        return max((event["number"] for event in self._events()), default=0)

    def _degraded_since(self, number: int) -> list[str]:
        return [
            f"{event['subject']}: {event['text']}"
            for event in self._events(number)
            if event["kind"] in ("degraded", "unhealthy")
        ]


def _reusing(turns: Sequence[Turn], recovered_s: float) -> list[Turn]:
    """Turns after a recovery that should find all before them again.

    A dialogue's first turn after a flush writes its pages again; reuse is back after it.
    """
    later = [t for t in turns if t.turn > 1 and t.began_s > recovered_s and not t.error]
    first = {session: min(t.began_s for t in later if t.session == session)
             for session in {t.session for t in later}}  # fmt: skip
    return [t for t in later if t.began_s > first[t.session]]


def reuse_back_s(turns: Sequence[Turn], returned_s: float) -> float | None:
    """Seconds after `returned_s` until every turn finds all before it; None: it never does.

    A dialogue's turn that does not find all counts until it is answered: the one after it can.
    """
    later = [t for t in turns if t.turn > 1 and t.ended_s > returned_s and not t.error]
    missed = [t.ended_s for t in later if t.cached < REUSE * t.ceiling]
    back_s = max(missed, default=returned_s)
    return back_s - returned_s if any(t.began_s > back_s for t in later) else None


async def _busy(running: Running) -> dict[str, str]:
    """What workers hold once those who asked are gone, and have had time to be forgotten."""
    workers = [*running.plan.role(Role.PREFILL), *running.plan.role(Role.DECODE)]
    held: dict[str, str] = {}
    async with running.client(10.0) as client:
        for _ in range(40):
            loads = {own.name: (await idle.load(client, own)).busy for own in workers}
            held = {name: busy for name, busy in loads.items() if busy}
            if not held:
                break
            await asyncio.sleep(0.5)
    return held


def _half_closed(shell: Shell) -> set[tuple[int, int]]:
    """Connections of schedulers whose other end is closed: their own port, and the other one."""
    found = set()
    for process in shell.processes():
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("sglang::schedul"):
                found |= {
                    (one.laddr.port, one.raddr.port)
                    for one in process.net_connections("tcp")
                    if one.status == psutil.CONN_CLOSE_WAIT
                }
    return found


def _ttfts(turns: Any) -> list[float]:
    return [turn.ttft_s for turn in turns if turn.ttft_s is not None and turn.error is None]


def _names(shell: Shell) -> list[str]:
    """What runs, without Ray's idle workers, which come and go."""
    names = []
    for process in shell.processes():
        try:
            name = " ".join(process.cmdline()) or process.name()
        except psutil.Error:
            continue
        if not name.startswith("ray::IDLE"):
            names.append(_kind(name))
    return names


def _kind(name: str) -> str:
    """A command without what differs between two starts of it."""
    name = name.split(" --")[0]
    if "ray::" in name:  # Ray shows in the title which method an actor runs at the moment.
        return name.split(".")[0][:80].strip()
    if "supervisor.py " in name:  # The number of its end of a socket pair.
        return name.partition("supervisor.py ")[0] + "supervisor.py"
    return name[:80]


def _is_controller(process: psutil.Process) -> bool:
    try:
        return "ray::Controller" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
