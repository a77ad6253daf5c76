"""The rule on what servers tell of their caches."""

from __future__ import annotations

from collections.abc import Iterable

from pdcache.checks.finding import Finding
from pdcache.checks.rule import Subject, finding, rule
from pdcache.topology.schema import WORKER_ROLES


@rule(
    "metrics-off",
    "tiers are accounted by /metrics and by the cached tokens that decode's answers tell "
    "(sglang 0.5.23 observability/metrics_collector.py, entrypoints/openai/usage_processor.py)",
)
def metrics_off(subject: Subject) -> Iterable[Finding]:
    """Servers serve metrics, and answers tell their cached tokens."""
    for role in WORKER_ROLES:
        if not subject.topology.worker(role).metrics:
            yield finding(
                "metrics-off",
                "warning",
                f"{role}.metrics",
                f"nothing tells what the tiers of {role} workers serve.",
                True,
            )
    if not subject.topology.decode.cache_report:
        yield finding(
            "metrics-off",
            "warning",
            "decode.cache_report",
            "answers do not tell their cached tokens.",
            True,
        )
