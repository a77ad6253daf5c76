"""Soak: what grows over many cycles of up and down, and over half an hour of random kills.

    python scripts/soak.py [--cycles 24] [--minutes 30] [--seed 0]

Exit 1 when anything is left over or grows: processes, file descriptors, shared memory, temp
folders, or more than 5 % of memory; and when a fault costs more than it may in the kill matrix.
Servers keep connections to each other and open them when they need them, a few more or less each
time: what is open in the end may not be more than what was at some time in the first half.
Mooncake 0.3.13 keeps connections to a holder that died (tcp_transport.cpp: 4 lanes) in clients that
do not use them again: they are counted on their own, and may be those of the holders that were
ended and no more. Writes build/soak.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pdcache.cluster.supervisor import shared_memory
from pdcache.plan import Plan
from pdcache.topology import Role
from tests.cluster_tools import SMALL, TINY, Shell, cluster, free_port
from tests.dialogues import running_cluster
from tests.kills import SIGNALS, Bench
from tests.load import Load, wrong_tokens
from tests.outcomes import HEAD, KINDS

FILE = "topologies/full_offload.yaml"
GROWTH = 0.05
KILLS = [(kind, how) for kind in KINDS for how in SIGNALS if kind != "gateway"]
SETTLE_S = 60.0
LANES = 4
USES = ("processes", "descriptors", "lost connections", "memory")


def main() -> int:
    """Run both parts; 0 when nothing grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=24, help="0: none")
    parser.add_argument("--minutes", type=float, default=30.0, help="0: none")
    parser.add_argument("--seed", type=int, default=0)
    own = parser.parse_args()
    build = Path(__file__).resolve().parents[1] / "build"
    build.mkdir(exist_ok=True)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="pdc-soak-") as folder:
        shell = Shell(Path(folder) / "home")
        for name, amount, part in (
            ("cycles", own.cycles, lambda: cycles(shell, own.cycles)),
            ("kills", own.minutes, lambda: kills(shell, own.minutes, own.seed)),
        ):
            if not amount:
                continue
            result[name] = part()
            print(name, json.dumps(result[name], indent=1), flush=True)
            (build / "soak.json").write_text(json.dumps(result, indent=1))
    return 1 if any(part["problems"] for part in result.values()) else 0


def cycles(shell: Shell, count: int) -> dict[str, Any]:
    """Up and down again and again; what this machine has before and after."""
    before, seconds = machine(), []
    problems: list[str] = []
    for number in range(count):
        begin = time.monotonic()
        with cluster(shell, FILE, *SMALL, "--no-verify", "--set", f"gateway.port={free_port()}"):
            pass
        seconds.append(round(time.monotonic() - begin, 1))
        print(f"cycle {number + 1} of {count}: {seconds[-1]} s", flush=True)
    after = machine()
    problems += [
        f"{what}: {before[what]} before, {after[what]} after {count} cycles"
        for what in ("processes", "shared memory", "temp folders")
        if after[what] > before[what]
    ]
    return {"seconds": seconds, "before": before, "after": after, "problems": problems}


def kills(shell: Shell, minutes: float, seed: int) -> dict[str, Any]:
    """A load for some minutes, and a random fault whenever the cluster is UP again.

    None comes again before each of the others was there.
    """
    source = random.Random(seed)
    sets = ["decode.workers=2", f"gateway.port={free_port()}"]
    words = [word for one in sets for word in ("--set", one)]
    struck: list[str] = []
    with cluster(shell, FILE, *TINY, *words) as up:
        running = running_cluster(shell, up["name"])
        bench, plan = Bench(shell, running), running.plan
        # A first load opens the connections that servers keep, so it comes before both looks.
        before, first = usage_after_load(shell, plan)
        deadline = time.monotonic() + 60 * minutes
        problems: list[str] = []
        turns, left = 0, []
        looks = [before]
        print(HEAD, flush=True)
        while time.monotonic() < deadline:
            left = left or source.sample(KILLS, len(KILLS))
            kind, how = left.pop()
            struck.append(f"{kind} {how}")
            try:
                outcome = bench.strike(kind, how)
            except AssertionError as error:
                problems.append(f"{kind} {how}: {error}")
                print(problems[-1], flush=True)
                continue
            turns += outcome.turns
            problems += [f"{kind} {how}: {one}" for one in outcome.broken()]
            print(outcome.row(), flush=True)
            looks.append(usage(shell))
        after, last = usage_after_load(shell, plan)
        for load in (first, last):
            problems += [f"wrong answer: {one}" for one in wrong_tokens(plan, load.done)]
            problems += [f"failed: {turn}" for turn in load.done if turn.error]
    total_before, total_after = total(before), total(after)
    ended = sum(one.startswith("holder") and not one.endswith("SIGSTOP") for one in struck)
    clients = [*plan.role(Role.PREFILL), *plan.role(Role.DECODE)]
    lost = total_after["lost connections"]
    if lost > LANES * ended * len(clients):
        problems.append(f"{lost} connections to what is gone, of {ended} holders that were ended")
    first_half = [total(look) for look in looks[: len(looks) // 2 + 1]]
    for what in ("processes", "descriptors"):
        if total_after[what] > max(look[what] for look in first_half):
            problems.append(f"{what}: {total_before[what]} before, {total_after[what]} after")
    if total_after["memory"] > total_before["memory"] * (1 + GROWTH):
        problems.append(
            f"memory: {total_before['memory']} bytes before, {total_after['memory']} after"
        )
    return {
        "struck": struck, "turns": turns, "before": before, "after": after,
        "looks": [total(look) for look in looks], "problems": problems,
    }  # fmt: skip


def machine() -> dict[str, int]:
    """What a cluster could leave: processes of this environment, shared memory that none uses."""
    used = shared_memory(psutil.pids())
    return {
        "processes": sum(
            any(sys.prefix in word for word in process.info["cmdline"] or ())
            for process in psutil.process_iter(["cmdline"])
        ),
        "shared memory": sum(entry.inode() not in used for entry in os.scandir("/dev/shm")),
        "temp folders": sum(1 for path in Path("/tmp").glob("pdc*")),
    }


def usage_after_load(shell: Shell, plan: Plan) -> tuple[dict[str, dict[str, int]], Load]:
    """What is in use once a load has run for a while and all is idle again."""
    with Load(plan) as load:
        time.sleep(SETTLE_S)
    time.sleep(SETTLE_S)
    return usage(shell), load


def usage(shell: Shell) -> dict[str, dict[str, int]]:
    """What the processes of a cluster use, by kind of process, Ray's idle workers left out."""
    found: dict[str, dict[str, int]] = {}
    for process in shell.processes():
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline()).split()
            if not " ".join(words).startswith("ray::IDLE"):
                kind = found.setdefault(kind_of(words), dict.fromkeys(USES, 0))
                known = process.net_connections("tcp")
                lost = sum(one.status == psutil.CONN_CLOSE_WAIT for one in known)
                kind["processes"] += 1
                kind["descriptors"] += process.num_fds() - lost
                kind["lost connections"] += lost
                kind["memory"] += process.memory_full_info().pss
    return found


def kind_of(words: list[str]) -> str:
    """A process by its title, its module or its program."""
    for at, word in enumerate(words):
        if word.endswith(".py"):
            return Path(word).name
        if word == "-m":
            return words[at + 1]
    return Path((" ".join(words).split() or [""])[0]).name


def total(of: dict[str, dict[str, int]]) -> dict[str, int]:
    """The sum over all kinds."""
    return {use: sum(kind[use] for kind in of.values()) for use in USES}


if __name__ == "__main__":
    sys.exit(main())
