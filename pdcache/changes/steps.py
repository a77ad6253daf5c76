"""From two plans to steps: prefill first, then decode, one worker after the other."""

from __future__ import annotations

from pdcache.changes.change import Change, Step, StepState
from pdcache.changes.kinds import Kind, has_storage, kind_of
from pdcache.errors import ClusterError
from pdcache.plan.process import Plan, Process
from pdcache.topology.schema import WORKER_ROLES, Role

TAKES_OUT = {"hold", "idle", "drain"}
"""Actions that leave the process itself as it was."""


def steps_between(
    before: Plan, after: Plan, *, restart: frozenset[str] = frozenset()
) -> list[Step]:
    """Steps that lead from one plan to another.

    Args:
        restart: processes that are restarted though nothing about them changes.
    """
    names = [*dict.fromkeys(own.name for own in (*before.processes, *after.processes))]
    rows = [(_named(before, name), _named(after, name), name) for name in names]
    steps: list[Step] = []
    for wanted in (Kind.ADD, None, Kind.REMOVE):
        for role in (*WORKER_ROLES, Role.GATEWAY):
            for old, new, name in rows:
                process = new or old
                assert process is not None
                kind = kind_of(old, new)
                if kind is Kind.NOTHING and name in restart:
                    kind = Kind.RESTART
                phase = kind if kind in (Kind.ADD, Kind.REMOVE) else None
                if process.role is role and phase is wanted:
                    steps += steps_for(old, new, kind)
    return steps


def steps_for(before: Process | None, after: Process | None, kind: Kind) -> list[Step]:
    """Steps for one process."""
    process = after or before
    assert process is not None
    actions: tuple[str, ...] = {
        Kind.NOTHING: (),
        Kind.POLICIES: ("policies",),
        Kind.STORAGE: ("hold", "idle", *_storage(before, after), "prove", "release"),
        Kind.RESTART: ("hold", "drain", "stop", "start", "prove", "release"),
        Kind.ADD: ("enter", "start", "prove", "release"),
        Kind.REMOVE: ("hold", "drain", "remove"),
    }[kind]
    if process.role is Role.GATEWAY:
        actions = ("replace",) if actions else ()
    elif process.rank:
        # Further nodes of a server have no requests of their own: they follow its rank 0.
        actions = tuple(name for name in actions if name in ("enter", "stop", "start", "remove"))
    return [Step(action, process, before) for action in actions]


def drain_steps(worker: Process) -> list[Step]:
    """Steps that take a worker out of service; it stays a part of the cluster."""
    return [Step(action, worker, worker) for action in ("hold", "drain", "stop")]


def steps_back(change: Change, present: set[str]) -> list[Step]:
    """Steps from wherever a change stopped back to where it began.

    Args:
        present: processes that are a part of the cluster now.
    """
    before, _ = change.before
    touched = [step for step in change.steps if step.state is not StepState.TODO]
    back: list[Step] = []
    # The last one first: what was added before others were changed is removed after them.
    for name in reversed(dict.fromkeys(step.process.name for step in touched)):
        old = _named(before, name)
        own = [step for step in touched if step.process.name == name]
        if old is not None and all(step.action in TAKES_OUT for step in own):
            back.append(Step("release", old, old))
        elif old is not None:
            kind = kind_of(own[0].process, old)
            kind = Kind.RESTART if kind is Kind.NOTHING else kind
            back += steps_for(own[0].process, old, Kind.ADD if name not in present else kind)
        elif name in present:
            back += steps_for(own[0].process, None, Kind.REMOVE)
    return back


def _storage(before: Process | None, after: Process | None) -> tuple[str, ...]:
    detach = ("detach",) if before is not None and has_storage(before) else ()
    attach = ("attach",) if after is not None and has_storage(after) else ()
    return (*detach, *attach)


def _named(plan: Plan, name: str) -> Process | None:
    return next((own for own in plan.processes if own.name == name), None)


def refuse_outage(plan: Plan, steps: list[Step], serving: set[str]) -> None:
    """Refuse steps that leave a role without a worker that serves.

    Args:
        serving: workers that get requests now.

    Raises:
        ClusterError: while one of them is out nobody else of its role is there.
    """
    out: set[str] = set()
    roles = {own.name: own.role for own in plan.processes}
    for step in steps:
        name = step.process.name
        roles.setdefault(name, step.process.role)
        if step.action == "hold":
            out.add(name)
            role = step.process.role
            left = {other for other in serving - out if roles.get(other) is role}
            if name in serving and not left:
                raise ClusterError(
                    f"no other {role} worker serves, and requests would fail while it is out.",
                    where=name,
                    remedy=f"Add one first (`pdcache scale {plan.name} {role}=2`), or accept it "
                    "with --allow-outage.",
                )
        elif step.action == "release":
            out.discard(name)
            serving = serving | {name}
