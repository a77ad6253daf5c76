"""Plans of one cluster before and after a change, as `apply` and `scale` make them."""

from __future__ import annotations

from functools import lru_cache

from golden.plans import ONE_CPU_NODE, fixed_facts, shipped

from pdcache.changes.change import Change
from pdcache.changes.kinds import Kind, kind_of
from pdcache.changes.steps import steps_between
from pdcache.plan import Plan, build_plan
from pdcache.topology.facts import meant_nodes


@lru_cache(maxsize=64)
def live(*overrides: str, topology: str = "full_offload") -> Plan:
    """The plan of a cluster that runs."""
    return edited(None, *overrides, topology=topology)


def edited(before: Plan | None, *overrides: str, topology: str = "full_offload") -> Plan:
    """The plan that an edited topology makes of a running one."""
    made = shipped(topology, *overrides)
    return build_plan(made, fixed_facts(meant_nodes(made) or ONE_CPU_NODE), like=before)


def change_of(
    before: Plan,
    after: Plan,
    limit_s: float = 5.0,
    *,
    restart: frozenset[str] = frozenset(),
    stopped: frozenset[str] = frozenset(),
) -> Change:
    """The change between two plans; its topologies say nothing."""
    any_topology = shipped("full_offload")
    steps = steps_between(before, after, restart=restart, stopped=stopped)
    return Change(
        "apply a.yaml", steps, after, any_topology, (before, any_topology), limit_s,
        stopped=stopped,
    )  # fmt: skip


def kinds(before: Plan, after: Plan) -> dict[str, Kind]:
    """How each process is changed; those that are not are left out."""
    names = {process.name for process in (*before.processes, *after.processes)}
    old = {process.name: process for process in before.processes}
    new = {process.name: process for process in after.processes}
    found = {name: kind_of(old.get(name), new.get(name)) for name in names}
    return {name: kind for name, kind in found.items() if kind is not Kind.NOTHING}
