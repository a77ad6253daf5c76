"""Rules over a Topology: mistakes are found before anything starts."""

from __future__ import annotations

from collections.abc import Iterable

import pdcache.checks.rules  # noqa: F401  (registers the rules)
from pdcache.checks.finding import Finding, Severity
from pdcache.checks.rule import RULES, Rule, Subject
from pdcache.errors import TopologyError
from pdcache.topology.facts import Facts
from pdcache.topology.schema import Topology

__all__ = ["RULES", "Finding", "Rule", "Severity", "check"]

_ORDER = {"error": 0, "warning": 1, "info": 2}


def check(topology: Topology, facts: Facts, *, skip: Iterable[str] = ()) -> list[Finding]:
    """Apply every rule but the skipped ones; errors come first.

    Raises:
        TopologyError: ``skip`` names a rule that does not exist.
    """
    skipped = set(skip)
    if unknown := skipped - set(RULES):
        raise TopologyError(
            f"there is no rule named {', '.join(sorted(unknown))}.",
            where="--skip-check",
            remedy=f"Rules: {', '.join(RULES)}.",
        )
    subject = Subject.of(topology, facts)
    found = [
        finding
        for rule in RULES.values()
        if rule.id not in skipped
        for finding in rule.apply(subject)
    ]
    return sorted(found, key=lambda finding: _ORDER[finding.severity])
