"""A cluster in memory that does the steps of a change, and says when a step makes no sense."""

from __future__ import annotations

from dataclasses import replace

from pdcache.changes.change import Step
from pdcache.changes.kinds import BACKEND, OPTIONS, PREFETCH, WRITE, detached
from pdcache.plan.portable import flags
from pdcache.plan.process import Plan, Process
from pdcache.topology.schema import WORKER_ROLES, Role

L3 = (BACKEND, OPTIONS, PREFETCH)


class SmallCluster:
    """What each process was told to be, what it is, and who gets requests.

    Attributes:
        told: by name, as the controller would start it again.
        runs: by name, the flags in force; a process that is stopped is not there.
        serving: workers that the gateway has.
    """

    def __init__(self, plan: Plan, stopped: frozenset[str] = frozenset()) -> None:
        self.told = {own.name: own for own in plan.processes}
        self.runs = running(plan, stopped)
        self.serving = workers(plan) - stopped

    def do(self, step: Step) -> None:
        """One step, done again without harm. What runs is always what it was told to be."""
        for process in step.processes:
            getattr(self, f"_{step.action}")(process, process.name)
        for name, own in self.runs.items():
            assert flags(self.told[name]) == own, f"{step}: {name}"

    def is_as(self, plan: Plan, stopped: frozenset[str] = frozenset()) -> bool:
        """Every process of the plan and no other is there, is as the plan has it, and serves.

        Those that are stopped are told what they will be, and neither run nor serve.
        """
        return (
            self.told == {own.name: own for own in plan.processes}
            and self.runs == running(plan, stopped)
            and self.serving == workers(plan) - stopped
        )

    def serves(self, role: Role) -> bool:
        """Whether a request finds a worker of a role."""
        return any(self.told[name].role is role for name in self.serving)

    def _hold(self, process: Process, name: str) -> None:
        assert name in self.told
        self.serving.discard(name)

    def _idle(self, process: Process, name: str) -> None:
        assert name not in self.serving, "it still gets requests"

    _drain = _idle

    def _detach(self, process: Process, name: str) -> None:
        assert name not in self.serving, "SGLang wants it idle"
        self.told[name] = detached(self.told[name])
        for flag in L3:
            self.runs[name].pop(flag, None)

    def _attach(self, process: Process, name: str) -> None:
        assert name not in self.serving, "SGLang wants it idle"
        own, new = self.runs[name], flags(process)
        assert own.get(OPTIONS, new[OPTIONS]) == new[OPTIONS], "SGLang would not take the options"
        self.told[name] = process
        own.update({flag: new[flag] for flag in (*L3, WRITE)})

    def _policies(self, process: Process, name: str) -> None:
        own, new = self.runs[name], flags(process)
        assert own[OPTIONS] == new[OPTIONS], "SGLang would not take the options"
        self.told[name] = process
        own.update({flag: new[flag] for flag in (PREFETCH, WRITE)})

    def _stop(self, process: Process, name: str) -> None:
        assert name not in self.serving, "it still gets requests"
        self.runs.pop(name, None)

    def _enter(self, process: Process, name: str) -> None:
        self.told[name] = process

    def _start(self, process: Process, name: str) -> None:
        self.told[name] = process
        self.runs.setdefault(name, flags(process))

    def _prove(self, process: Process, name: str) -> None:
        assert name not in self.serving, "it is proved before it gets requests"
        assert self.told[name] == process
        assert self.runs[name] == flags(process)

    def _release(self, process: Process, name: str) -> None:
        assert name in self.runs, "the gateway would never take it"
        self.serving.add(name)

    def _remove(self, process: Process, name: str) -> None:
        assert name not in self.serving, "it still gets requests"
        self.told.pop(name, None)
        self.runs.pop(name, None)

    def _define(self, process: Process, name: str) -> None:
        assert name not in self.runs, "it would not be what it was told to be"
        self.told[name] = process

    def _replace(self, process: Process, name: str) -> None:
        self.told[name] = process
        self.runs[name] = flags(process)


def running(plan: Plan, stopped: frozenset[str]) -> dict[str, dict[str, str]]:
    """Flags of the processes of a plan, by name, without those that are stopped."""
    return {own.name: flags(own) for own in plan.processes if own.name not in stopped}


def workers(plan: Plan) -> set[str]:
    """Names of the workers of a plan."""
    return {own.name for own in plan.processes if own.role in WORKER_ROLES}


def with_flag(process: Process, flag: str, value: str) -> Process:
    """A process with another value of a flag that it has."""
    at = process.argv.index(flag)
    return replace(process, argv=(*process.argv[: at + 1], value, *process.argv[at + 2 :]))
