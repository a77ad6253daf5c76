"""Rules on how long a read from L3 may take."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pdcache.checks.budget import model_path
from pdcache.checks.finding import Finding
from pdcache.checks.pools import pools
from pdcache.checks.rule import Subject, finding, rule
from pdcache.store.mooncake_commands import protocol
from pdcache.topology.hicache import storage_options
from pdcache.topology.schema import Role
from pdcache.topology.settings import attention_tp
from pdcache.topology.stores import FileStore, MooncakeStore

BASE_S, PER_KI_TOKEN_S = 1.0, 0.25
"""SGLang's own (sglang 0.5.23 mem_cache/hybrid_cache/hybrid_cache_controller.py)."""

TCP_BYTES_S, RDMA_BYTES_S = 10e9, 100e9
"""More than a node reads from L3 over either."""


@rule(
    "prefetch-timeout",
    "under policy timeout a read that is not done in base + tokens / 1024 x seconds is given up "
    "and computed again (sglang 0.5.23 mem_cache/unified_radix_cache.py:2259-2300)",
)
def prefetch_timeout(subject: Subject) -> Iterable[Finding]:
    """The time limit of a read can be met by the network."""
    topology, options = subject.topology, storage_options(subject.topology)
    if subject.asked[Role.PREFILL]["hicache_storage_prefetch_policy"].value != "timeout":
        return
    worker, view = topology.prefill, subject.facts.models.get(model_path(topology, Role.PREFILL))
    per_token = pools(subject, Role.PREFILL).token_bytes * attention_tp(worker) * worker.pp
    longest = topology.traffic.prompt_tokens or topology.model.context_length
    tokens = longest or (view.max_positions if view is not None else 0) or 32_768
    base, per_ki = (
        float(options[key].value) if key in options else default
        for key, default in (
            ("prefetch_timeout_base", BASE_S),
            ("prefetch_timeout_per_ki_token", PER_KI_TOKEN_S),
        )
    )
    fastest = _bytes_per_second(subject) * worker.nodes
    seconds = base + tokens / 1024 * per_ki
    if per_token * tokens > fastest * seconds:
        need = 2 * 1024 * per_token / fastest
        path = "hicache.prefetch_timeout_per_ki_token_s"
        if "prefetch_timeout_per_ki_token" in options:
            path = options["prefetch_timeout_per_ki_token"].path
        yield finding(
            "prefetch-timeout",
            "warning",
            path,
            f"{tokens} tokens are {per_token * tokens / 1e9:.3g} GB of KV, and {seconds:.3g} s to "
            f"read them takes more than {fastest / 1e9:.0f} GB/s: most reads are given up.",
            max(PER_KI_TOKEN_S, math.ceil(100 * need) / 100),
        )


@rule(
    "timeout-unused",
    "only policy timeout has a time limit (sglang 0.5.23 mem_cache/unified_radix_cache.py:2284)",
)
def timeout_unused(subject: Subject) -> Iterable[Finding]:
    """No time limit is set with a prefetch policy that has none."""
    policy = subject.asked[Role.PREFILL]["hicache_storage_prefetch_policy"]
    if policy.value == "timeout":
        return
    options = storage_options(subject.topology)
    for key in ("prefetch_timeout_base", "prefetch_timeout_per_ki_token"):
        if key in options:
            yield finding(
                "timeout-unused",
                "warning",
                options[key].path,
                f"policy {policy.value} has no time limit, and this one has no effect.",
                fix=f"# remove {options[key].path}, or set {policy.path}: timeout",
            )


def _bytes_per_second(subject: Subject) -> float:
    """What one node can read from L3 at best."""
    store, device = subject.topology.store, subject.topology.device
    if isinstance(store, MooncakeStore):
        slow = protocol(store, device) == "tcp"
    else:
        slow = device == "cpu" or isinstance(store, FileStore)
    return TCP_BYTES_S if slow else RDMA_BYTES_S
