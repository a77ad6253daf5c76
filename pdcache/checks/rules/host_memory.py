"""The rule on the memory of nodes."""

from __future__ import annotations

from collections.abc import Iterable

from pdcache.checks.budget import NodeBudget, budget
from pdcache.checks.finding import Finding
from pdcache.checks.fitting import changed, fitting, lack, levers, nested
from pdcache.checks.pools import pools
from pdcache.checks.rule import Subject, finding, rule, yaml_text
from pdcache.topology.placement import place
from pdcache.topology.schema import WORKER_ROLES, Role
from pdcache.topology.settings import ranks

LARGE_GB = 100


@rule(
    "host-memory",
    "pinned pools of several servers on one node are each checked alone by SGLang "
    "and fail, or are killed, when all have started",
)
def host_memory(subject: Subject) -> Iterable[Finding]:
    """Weights, L1, L2, staging, segments and processes fit into the RAM of every node."""
    nodes = budget(subject.topology, subject.facts)
    fullest = max(nodes, key=lack)
    if lack(fullest) > 0:
        lever = next(levers(subject.topology, fullest), None)
        yield finding(
            "host-memory",
            "error",
            "memory.host_gb" if lever is None else lever.path,
            _too_much(fullest, sum(lack(node) > 0 for node in nodes)),
            fix=yaml_text(nested(fitting(subject.topology, subject.facts))),
        )
        return
    for role in WORKER_ROLES:
        own, ratio = pools(subject, role), subject.asked[role].get("hicache_ratio")
        if ratio is not None and (own.l2 is None or not own.token_bytes):
            path = ratio.path.removesuffix("ratio") + "size_gb"
            source = "GPU's memory" if own.token_bytes else "model, which is not at hand"
            yield finding(
                "host-memory",
                "info",
                path,
                f"L2 of {role} is {ratio.value} x L1, whose size follows from the {source}: it is "
                "not in the budget.",
                fix=yaml_text(nested(_known_size(subject, role, path))),
            )


def _too_much(node: NodeBudget, count: int) -> str:
    largest = sorted(node.parts.items(), key=lambda part: -part[1])[:5]
    text = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in largest)
    others = f" ({count - 1} more nodes lack memory too)" if count > 1 else ""
    return (
        f"node {node.node} needs {node.needed_bytes / 1e9:.1f} GB of "
        f"{node.available_bytes / 1e9:.1f} GB; the largest parts are {text}{others}."
    )


def _known_size(subject: Subject, role: Role, path: str) -> dict[str, float]:
    """A size of L2 for which there is memory, with less of other sizes where there is none."""
    topology, facts = changed(subject.topology, {path: 1}), subject.facts
    worker = topology.worker(role)
    servers = [0] * len(facts.nodes)
    for spot in place(topology, facts.nodes):
        servers[spot.node] += spot.role is role
    spare = min(
        -lack(node) // (count * -(-ranks(worker) // worker.nodes))
        for node, count in zip(budget(topology, facts), servers, strict=True)
        if count
    )
    size = max(1, min(LARGE_GB, 1 + int(spare // 1e9)))
    return {path: size} | fitting(changed(subject.topology, {path: size}), facts)
