"""Rules on what must fit into L1 and into the context."""

from __future__ import annotations

from collections.abc import Iterable

from pdcache.checks.budget import l1_tokens, model_path
from pdcache.checks.finding import Finding, Severity
from pdcache.checks.pools import pools
from pdcache.checks.rule import Subject, finding, rule, yaml_at, yaml_text
from pdcache.topology.schema import WORKER_ROLES, Role, Topology
from pdcache.topology.settings import role_settings

TAIL = 7
"""Tokens by which a prompt must stay below L1 and below the context (sglang 0.5.23
managers/tp_worker.py:568, managers/utils.py:272)."""

LONGER_CONTEXT = "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"


@rule(
    "l1-size",
    "a prompt that is longer than L1 is refused, and without room for a page no server starts "
    "(sglang 0.5.23 managers/tp_worker.py:556-572, managers/utils.py:272)",
)
def l1_size(subject: Subject) -> Iterable[Finding]:
    """L1 of both roles holds the longest prompt, and the context where one is set."""
    prompt, context = subject.topology.traffic.prompt_tokens, subject.topology.model.context_length
    short: dict[Role, int] = {}
    for role in WORKER_ROLES:
        own = pools(subject, role)
        if own.l1 is None:
            continue
        need = max(own.page, prompt + TAIL if prompt is not None else 0)
        if own.l1 < need:
            given = subject.asked[role]["max_total_tokens"].value is not None
            what = f"a prompt of {prompt}" if need > own.page else f"a page of {own.page}"
            beside = "" if given else " beside the weights"
            whole = -(-need // own.page) * own.page
            yield finding(
                "l1-size",
                "error",
                f"{role}.max_total_tokens" if given else f"{role}.tp",
                f"L1 of {role} has room for {own.l1} tokens{beside}; {what} tokens needs {need}.",
                fix=yaml_at(f"{role}.max_total_tokens", whole)
                if given
                else _larger(subject, role, need),
            )
        elif context is not None and own.l1 < context:
            short[role] = own.l1
    if short and context is not None:
        sizes = " and ".join(f"{tokens} on {role}" for role, tokens in short.items())
        yield finding(
            "l1-size",
            "warning",
            "model.context_length",
            f"a context of {context} tokens does not fit into L1 ({sizes}): longer requests are "
            "refused.",
            min(short.values()),
        )


@rule(
    "context",
    "SGLang refuses a context beyond the model's own, and requests beyond the context "
    "(sglang 0.5.23 configs/model_config.py:1292-1316, managers/tp_worker.py:568)",
)
def context(subject: Subject) -> Iterable[Finding]:
    """The context is one that the model can read, and the longest prompt fits into it."""
    topology = subject.topology
    own = [_positions(subject, role) for role in WORKER_ROLES]
    positions = min((tokens for tokens in own if tokens), default=0)
    length, prompt = topology.model.context_length, topology.traffic.prompt_tokens
    if length is not None and positions and length > positions:
        allowed = all(_longer_allowed(topology, role) for role in WORKER_ROLES)
        severity: Severity = "warning" if allowed else "error"
        yield finding(
            "context",
            severity,
            "model.context_length",
            f"the model reads {positions} tokens at most; beyond, its answers get worse, and "
            f"without {LONGER_CONTEXT} no server starts.",
            positions,
        )
    limit = length or positions
    if prompt is None or not limit or prompt + TAIL <= limit:
        return
    message = (
        f"a prompt of {prompt} tokens needs a context of {prompt + TAIL}, and it is {limit}: such "
        "requests are refused."
    )
    if length is not None and (not positions or prompt + TAIL <= positions):
        better = max(positions, prompt + TAIL)
        yield finding("context", "error", "model.context_length", message, better)
    else:
        yield finding("context", "error", "traffic.prompt_tokens", message, max(1, limit - TAIL))


def _positions(subject: Subject, role: Role) -> int:
    """Tokens that the model of a role can read; 0 when unknown, or overridden."""
    view = subject.facts.models.get(model_path(subject.topology, role))
    if view is None or "json_model_override_args" in subject.asked[role]:
        return 0
    return view.max_positions


def _longer_allowed(topology: Topology, role: Role) -> bool:
    return topology.worker(role).env.get(LONGER_CONTEXT, "").lower() in ("1", "true", "yes", "y")


def _larger(subject: Subject, role: Role, need: int) -> str:
    """More ranks, which share weights and heads, or larger GPUs, until so many tokens fit."""
    topology, page = subject.topology, pools(subject, role).page

    def fits(wider: Topology) -> bool:
        l1 = l1_tokens(wider, subject.facts, role, role_settings(wider, role))
        return l1 is not None and l1 // page * page >= need

    for doublings in range(1, 6):
        sizes = {own: topology.worker(own).tp << doublings for own in WORKER_ROLES}
        worker = topology.worker(role).model_copy(update={"tp": sizes[role]})
        if fits(topology.model_copy(update={role.value: worker})):
            return yaml_text({own.value: {"tp": tp} for own, tp in sizes.items()})
    nodes = topology.nodes
    gpu_gb = (nodes.gpu_gb if nodes is not None else None) or 80.0
    while nodes is not None and gpu_gb < 1e12:
        gpu_gb *= 2
        if fits(topology.model_copy(update={"nodes": nodes.model_copy(update={"gpu_gb": gpu_gb})})):
            break
    return yaml_at("nodes.gpu_gb", gpu_gb)
