"""From two plans to steps: prefill first, then decode, one server after the other."""

from __future__ import annotations

from itertools import zip_longest

from pdcache.changes.change import Change, Step, StepState
from pdcache.changes.kinds import Kind, has_storage, kind_of
from pdcache.errors import ClusterError
from pdcache.plan.process import Plan, Process
from pdcache.topology.schema import WORKER_ROLES, Role

DEFINE = "define"
TAKES_OUT = {"hold", "idle", "drain"}
"""Actions that leave the process itself as it was."""


def steps_between(
    before: Plan,
    after: Plan,
    *,
    restart: frozenset[str] = frozenset(),
    stopped: frozenset[str] = frozenset(),
) -> list[Step]:
    """Steps that lead from one plan to another.

    Args:
        restart: servers that are restarted though less or nothing would do.
        stopped: servers that are out of service, and stay so unless they are in ``restart``.
    """
    names = [*dict.fromkeys(own.server for own in (*before.processes, *after.processes))]
    rows = [(parts(before, name), parts(after, name), name) for name in names]
    steps: list[Step] = []
    for wanted in (Kind.ADD, None, Kind.REMOVE):
        for role in (*WORKER_ROLES, Role.GATEWAY):
            for old, new, name in rows:
                kind = _strongest(old, new)
                if name in restart and kind not in (Kind.ADD, Kind.REMOVE):
                    kind = Kind.RESTART
                phase = kind if kind in (Kind.ADD, Kind.REMOVE) else None
                if (new or old)[0].role is not role or phase is not wanted:
                    continue
                if phase is None and name in stopped - restart:
                    steps += _told(old, new) if kind is not Kind.NOTHING else []
                else:
                    steps += steps_for(old, new, kind)
    return steps


def parts(plan: Plan, server: str) -> tuple[Process, ...]:
    """The processes of one server, that of rank 0 first."""
    return tuple(own for own in plan.processes if own.server == server)


def steps_for(before: tuple[Process, ...], after: tuple[Process, ...], kind: Kind) -> list[Step]:
    """Steps for one server, whose processes are started and stopped together."""
    actions: tuple[str, ...] = {
        Kind.NOTHING: (),
        Kind.POLICIES: ("policies",),
        Kind.STORAGE: ("hold", "idle", *_storage(before[:1], after[:1]), "prove", "release"),
        Kind.RESTART: ("hold", "drain", "stop", "start", "prove", "release"),
        Kind.ADD: ("enter", "start", "prove", "release"),
        Kind.REMOVE: ("hold", "drain", "remove"),
    }[kind]
    if (after or before)[0].role is Role.GATEWAY:
        actions = ("replace",) if actions else ()
    return [_step(action, before, after) for action in actions]


def drain_steps(server: tuple[Process, ...]) -> list[Step]:
    """Steps that take a server out of service; it stays a part of the cluster."""
    return [_step(action, server, server) for action in ("hold", "drain", "stop")]


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
        old = parts(before, name)
        own = [step for step in touched if step.process.name == name]
        now = own[0].processes
        if old and own[0].action == DEFINE:
            back += _told(now, old)
        elif old and name in change.stopped:
            back += _out_of_service(now, old, is_present=name in present)
        elif old and all(step.action in TAKES_OUT for step in own):
            back.append(_step("release", old, old))
        elif old:
            kind = _strongest(now, old)
            if kind is Kind.NOTHING or any(step.action == "stop" for step in own):
                kind = Kind.RESTART
            back += steps_for(now, old, Kind.ADD if name not in present else kind)
        elif name in present:
            back += steps_for(now, (), Kind.REMOVE)
    return back


def _strongest(before: tuple[Process, ...], after: tuple[Process, ...]) -> Kind:
    """The least that makes one server of the other: what its process that needs most needs."""
    order = list(Kind)
    kinds = (kind_of(old, new) for old, new in zip_longest(before, after))
    return max(kinds, key=order.index)


def _told(before: tuple[Process, ...], after: tuple[Process, ...]) -> list[Step]:
    """A server that does not run only learns how it is started the next time."""
    return [_step(DEFINE, before, after)]


def _out_of_service(
    now: tuple[Process, ...], old: tuple[Process, ...], *, is_present: bool
) -> list[Step]:
    """A server that was stopped is stopped again, whatever was done to it meanwhile."""
    actions = ("hold", "drain", "stop", DEFINE) if is_present else ("enter", "hold")
    return [_step(action, now, old) for action in actions]


def _step(action: str, before: tuple[Process, ...], after: tuple[Process, ...]) -> Step:
    process, *others = after or before
    return Step(action, process, before[0] if before else None, tuple(others))


def _storage(before: tuple[Process, ...], after: tuple[Process, ...]) -> tuple[str, ...]:
    detach = ("detach",) if before and has_storage(before[0]) else ()
    attach = ("attach",) if after and has_storage(after[0]) else ()
    return (*detach, *attach)


def refuse_outage(plan: Plan, steps: list[Step], serving: set[str]) -> None:
    """Refuse steps that leave a role without a worker that serves, or clients without a gateway.

    Args:
        serving: workers that get requests now, and the gateway if it takes any.

    Raises:
        ClusterError: while one of them is out nobody else is there in its place.
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
        elif step.action == "replace" and name in serving:
            raise ClusterError(
                "there is no other: while it is replaced connections are refused for a second or "
                "two, and requests that run are cut.",
                where=name,
                remedy="Accept it with --allow-outage.",
            )
        elif step.action == "release":
            out.discard(name)
            serving = serving | {name}
