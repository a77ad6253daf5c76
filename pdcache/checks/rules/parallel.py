"""Rules on how a server is cut into ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pdcache.checks.finding import Finding
from pdcache.checks.queries import flags, usable_model
from pdcache.checks.rule import Subject, finding, rule, yaml_text
from pdcache.topology.schema import WORKER_ROLES, Role
from pdcache.topology.settings import attention_tp

MOST_WORKERS = 64
"""More servers than this are not proposed."""


@rule(
    "parallel-sizes",
    "SGLang asserts on these when a server starts (sglang 0.5.23 arg_groups/parallel_hook.py:287, "
    "326, arg_groups/validation_hook.py:175, 199, runtime_context.py:303)",
)
def parallel_sizes(subject: Subject) -> Iterable[Finding]:
    """The sizes of one server fit each other."""
    for role in WORKER_ROLES:
        for key, message, better in _misfits(subject, role):
            yield finding("parallel-sizes", "error", f"{role}.{key}", message, better)


@rule(
    "tp-heads",
    "a rank cannot hold a part of a KV head; SGLang asserts when it loads the model "
    "(sglang 0.5.23 models/llama.py:186-193, models/qwen3.py:169-176)",
)
def tp_heads(subject: Subject) -> Iterable[Finding]:
    """Attention TP divides the KV heads, or is a multiple of them."""
    topology = subject.topology
    for role in WORKER_ROLES:
        worker, view = topology.worker(role), usable_model(subject, role)
        if view is None or worker.tp % worker.attn_dp:
            continue
        heads = {layer.heads for layer in view.kv_layers if not layer.shared}
        size = attention_tp(worker)
        if _fit(heads, size):
            continue
        better = next(tp for tp in range(size, 0, -1) if _fit(heads, tp)) * worker.attn_dp
        alike = [one for one in WORKER_ROLES if topology.worker(one).tp == worker.tp]
        yield finding(
            "tp-heads",
            "error",
            f"{role}.tp",
            f"{size} ranks cannot share {' or '.join(map(str, sorted(heads)))} KV heads: neither "
            "number divides the other, and SGLang refuses to load the model.",
            fix=yaml_text({one.value: {"tp": better} for one in alike}),
        )


@rule(
    "dp-affinity",
    "SGLang picks the rank of prefill by bootstrap_room % ranks, which is another for every turn "
    "(sglang 0.5.23 managers/data_parallel_controller.py:901; sglang issues 26066, 7211)",
)
def dp_affinity(subject: Subject) -> Iterable[Finding]:
    """The turns of a dialogue find each other in L1 and L2 of one prefill."""
    size = subject.topology.prefill.attn_dp
    if size > 1:
        yield finding(
            "dp-affinity",
            "warning",
            "prefill.attn_dp",
            f"each turn of a dialogue goes to any of {size} ranks, which have an L1 and L2 of "
            "their own: what the turn before left is found in L3 only.",
            1,
        )


@rule(
    "prefill-dp",
    "every replica takes itself for rank 0 and fails what is meant for another (sglang 0.5.23 "
    "disaggregation/common/conn.py:2160-2179, run; sglang PR 29730)",
)
def prefill_dp(subject: Subject) -> Iterable[Finding]:
    """Replicas of prefill are servers of their own."""
    worker = subject.topology.prefill
    if worker.dp > 1:
        apart = worker.workers * worker.dp
        own = {"workers": apart, "dp": 1} if apart <= MOST_WORKERS else {"dp": 1}
        yield finding(
            "prefill-dp",
            "error",
            "prefill.dp",
            f"of {worker.dp} replicas in one prefill server only the first hands KV to decode; "
            "the requests of the others fail. Between workers the gateway also keeps a dialogue "
            "in one place.",
            fix=yaml_text({"prefill": own}),
        )


def _misfits(subject: Subject, role: Role) -> Iterator[tuple[str, str, int]]:
    """Key, what is wrong with it, and a value that fits."""
    worker = subject.topology.worker(role)
    tp, total = worker.tp, worker.tp * worker.pp
    if tp % worker.attn_dp:
        message = f"tp {tp} cannot be divided among {worker.attn_dp} ranks of attention DP."
        yield "attn_dp", message, _divisor(tp, worker.attn_dp)
    # With an all-to-all backend SGLang sets ep to tp itself.
    if tp % worker.ep and "moe_a2a_backend" not in flags(subject, role):
        yield "ep", f"tp {tp} cannot be divided by ep {worker.ep}.", _divisor(tp, worker.ep)
    if total % worker.nodes:
        message = f"{total} ranks (tp x pp) cannot be divided among {worker.nodes} nodes."
        yield "nodes", message, _divisor(total, worker.nodes)
    if worker.dp > 1 and worker.attn_dp > 1:
        yield "dp", "replicas (dp) and attention DP cannot be combined in one server.", 1
    elif worker.dp > 1 and worker.nodes > 1:
        yield "dp", "a server with replicas (dp) cannot span nodes; attention DP can.", 1


def _divisor(number: int, most: int) -> int:
    return next(size for size in range(min(number, most), 0, -1) if number % size == 0)


def _fit(heads: Iterable[int], tp: int) -> bool:
    return all(max(count, tp) % min(count, tp) == 0 for count in heads)
