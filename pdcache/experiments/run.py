"""Runs an experiment: up, replay, down for each step, then one comparison."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pdcache.errors import PdcacheError, ReplayError
from pdcache.experiments.cells import Group, Step, groups, schedule
from pdcache.experiments.commands import (
    Command,
    down_words,
    pdcache_command,
    replay_words,
    up_words,
)
from pdcache.experiments.spec import Experiment
from pdcache.experiments.state import State, StepState
from pdcache.replay.generate import generate_chat
from pdcache.replay.sessions import dump_sessions
from pdcache.reports import Comparison, RunFolder, Slo, compare, write_comparison, write_report

Tell = Callable[[str], None]

_TAIL_LINES = 25


@dataclass(frozen=True)
class Outcome:
    """A finished experiment.

    Attributes:
        comparison: of all groups with a run, None when there is none.
        failed: the steps that failed, by name.
        folder: where everything is.
    """

    comparison: Comparison | None
    failed: dict[str, StepState]
    folder: Path


def run_experiment(
    experiment: Experiment,
    out_dir: str | Path,
    *,
    command: Command = pdcache_command,
    tell: Tell = lambda text: None,
) -> Outcome:
    """Run what is not done yet, and write the comparison of all that is.

    Results go to `out_dir/cells/GROUP/REPETITION`, logs to `out_dir/logs`. A step that fails is
    noted with the end of its log, and the others go on; it is tried again when the experiment is
    run again into the same folder. The cluster is always brought down, before an interruption
    leaves this function too.

    Raises:
        ReplayError: the folder is another experiment's, or cannot be written.
    """
    folder = Path(out_dir)
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        sessions = _sessions(experiment, folder)
        state = State.open(folder, experiment, sessions.read_bytes())
    except OSError as cause:
        raise ReplayError(
            f"the experiment cannot be set up: {cause}.",
            where=str(folder),
            remedy="Give a folder that can be written.",
        ) from cause
    steps = schedule(experiment)
    for number, step in enumerate(steps, start=1):
        before = state.steps.get(step.name)
        if before is not None and before.done:
            tell(f"[{number}/{len(steps)}] {step.name}: done before")
            continue
        tell(f"[{number}/{len(steps)}] {step.name} ...")
        ended = _Step(experiment, step, folder, sessions, command).run()
        state.note(step.name, ended)
        tell(f"  {'done' if ended.done else ended.error} after {ended.seconds:.0f} s")
    failed = {
        step.name: state.steps[step.name] for step in steps if not state.steps[step.name].done
    }
    return Outcome(_compare(experiment, folder), failed, folder)


def run_folder(folder: Path, group: Group, repetition: int) -> Path:
    """Where a run's results are."""
    return folder / "cells" / group.name / str(repetition)


class _Failed(Exception):
    def __init__(self, message: str, log: Path) -> None:
        super().__init__(message)
        self.log = log


class _Step:
    def __init__(
        self, experiment: Experiment, step: Step, folder: Path, sessions: Path, command: Command
    ) -> None:
        self._experiment, self._step, self._folder = experiment, step, folder
        self._sessions, self._command = sessions, command
        self._cluster = f"exp-{experiment.name}"

    def run(self) -> StepState:
        begin = time.monotonic()
        try:
            self._run()
        except _Failed as failed:
            tail = _tail(failed.log)
            log = str(failed.log.relative_to(self._folder))
            return StepState(False, time.monotonic() - begin, str(failed), log, tail)
        return StepState(True, time.monotonic() - begin)

    def _run(self) -> None:
        # What a killed experiment left.
        self._call("down-before", down_words(self._cluster))
        try:
            self._call("up", up_words(self._step.cell, self._cluster))
            for group in self._step.groups:
                self._replay(group)
        finally:
            self._call("down", down_words(self._cluster), must=False)

    def _replay(self, group: Group) -> None:
        out = run_folder(self._folder, group, self._step.repetition)
        shutil.rmtree(out, ignore_errors=True)
        salt = f"{group.name}/{self._step.repetition}"
        words = replay_words(
            self._experiment, group, self._cluster, self._sessions, out, salt
        )  # fmt: skip
        name = f"replay-{group.arm}"
        code = self._call(name, words, must=False)
        try:
            complete = RunFolder.read(out).environment.complete
            if complete:
                write_report(out, _slo(self._experiment))
        except PdcacheError as error:
            raise _Failed(
                f"replay of {group.name} left no run: {error}", self._log(name)
            ) from error
        # Requests that failed are results too: the report counts them.
        if code != 0 and not complete:
            raise _Failed(f"replay of {group.name} was cut short (exit {code})", self._log(name))

    def _call(self, name: str, words: list[str], *, must: bool = True) -> int:
        log = self._log(name)
        code = self._command(words, log, self._experiment.timeout_s)
        if code != 0 and must:
            raise _Failed(f"pdcache {words[0]} failed (exit {code})", log)
        return code

    def _log(self, name: str) -> Path:
        return self._folder / "logs" / f"{self._step.name.replace('/', '-')}-{name}.log"


def _sessions(experiment: Experiment, folder: Path) -> Path:
    if experiment.load.sessions is not None:
        return experiment.load.sessions
    path = folder / "sessions.jsonl"
    try:
        dump_sessions(generate_chat(**(experiment.load.generate or {})), path)
    except TypeError as cause:
        raise ReplayError(
            f"{cause}.", where="load.generate", remedy="Give the arguments of generate_chat."
        ) from cause
    return path


def _compare(experiment: Experiment, folder: Path) -> Comparison | None:
    found: dict[str, list[RunFolder]] = {}
    for group in groups(experiment):
        for repetition in range(experiment.repetitions):
            out = run_folder(folder, group, repetition)
            if (out / "report.json").is_file():
                found.setdefault(group.name, []).append(RunFolder.read(out))
    if not found:
        return None
    comparison = compare(found, _slo(experiment))
    write_comparison(comparison, folder, title=experiment.name)
    return comparison


def _slo(experiment: Experiment) -> Slo | None:
    return None if experiment.slo is None else Slo.parse(experiment.slo)


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-_TAIL_LINES:])
