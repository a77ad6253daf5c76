"""The commands of a step, and how they are run."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pdcache.experiments.cells import Cell, Group
from pdcache.experiments.spec import Experiment

Command = Callable[[Sequence[str], Path, float], int]
"""Runs `pdcache` with words, writes what it says to a file, within seconds; its exit code."""

# `up` ends what it has started when it is interrupted.
_CLEAN_S = 180.0


def pdcache_command(words: Sequence[str], log: Path, limit_s: float) -> int:
    """Run a command of this very pdcache; 124 when it took longer than `limit_s`.

    It has a session of its own, so that Ctrl-C reaches it once, from here.
    """
    argv = [sys.executable, "-m", "pdcache.cli.main", *words]
    with log.open("wb") as told:
        running = subprocess.Popen(
            argv, stdout=told, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            return running.wait(limit_s)
        except subprocess.TimeoutExpired:
            _end(running)
            return 124
        except BaseException:
            _end(running)
            raise


def up_words(cell: Cell, cluster: str) -> list[str]:
    """`up` of a cell."""
    overrides = [word for setting in cell.overrides for word in ("--set", setting)]
    return ["up", str(cell.topology), "--name", cluster, *overrides, *cell.up]


def replay_words(
    experiment: Experiment, group: Group, cluster: str, sessions: Path, out: Path, salt: str
) -> list[str]:
    """`replay` of a group.

    The salt keeps what earlier runs left in the caches of the cluster out of this one. A flush
    needs idle workers, so the flushed arm has one session at a time.
    """
    options = dict(experiment.load.replay)
    if group.arm == "flushed":
        options |= {"flush": True, "concurrency": 1}
    options |= {"salt": salt} if group.cell.reuse else {"no-reuse": True}
    words = ["replay", str(sessions), "--target", cluster, "--out", str(out)]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not False:
            words += [flag, str(value)]
    return words


def down_words(cluster: str) -> list[str]:
    """`down` of whatever of the cluster there is."""
    return ["down", cluster]


def _end(running: subprocess.Popen[bytes]) -> None:
    running.send_signal(signal.SIGINT)
    try:
        running.wait(_CLEAN_S)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()
