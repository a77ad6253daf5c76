"""The registry of rules, and what a rule gets to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from pdcache.checks.finding import Finding, Severity
from pdcache.topology.facts import Facts
from pdcache.topology.schema import WORKER_ROLES, Role, Topology
from pdcache.topology.setting import Settings
from pdcache.topology.settings import role_settings
from pdcache.topology.switches import resolve


@dataclass(frozen=True)
class Subject:
    """A topology with its facts and what both roles will run with."""

    topology: Topology
    facts: Facts
    asked: dict[Role, Settings]
    resolved: dict[Role, Settings]

    @staticmethod
    def of(topology: Topology, facts: Facts) -> Subject:
        """Work out the settings of both worker roles once for all rules."""
        asked = {role: role_settings(topology, role) for role in WORKER_ROLES}
        resolved = {role: resolve(own) for role, own in asked.items()}
        return Subject(topology, facts, asked, resolved)


@dataclass(frozen=True)
class Rule:
    """One rule: its id, why it exists with the source, and the function that applies it."""

    id: str
    why: str
    apply: Callable[[Subject], Iterable[Finding]]


RULES: dict[str, Rule] = {}
RuleFunction = Callable[[Subject], Iterable[Finding]]


def rule(rule_id: str, why: str) -> Callable[[RuleFunction], RuleFunction]:
    """Register a rule under an id; ``why`` names the consequence and the source of the fact."""

    def register(function: RuleFunction) -> RuleFunction:
        if rule_id in RULES:
            raise ValueError(f"two rules are named {rule_id}")
        RULES[rule_id] = Rule(rule_id, why, function)
        return function

    return register


def finding(
    rule_id: str,
    severity: Severity,
    path: str,
    message: str,
    value: Any = None,
    *,
    fix: str | None = None,
) -> Finding:
    """A finding whose fix is the YAML that sets ``path`` to ``value``, unless given as text."""
    return Finding(rule_id, severity, path, message, yaml_at(path, value) if fix is None else fix)


def yaml_at(path: str, value: Any) -> str:
    """YAML text with ``value`` at a dotted path."""
    data: Any = value
    for part in reversed(path.split(".")):
        data = {part: data}
    return yaml_text(data)


def yaml_text(data: Any) -> str:
    """Data as YAML in the order it is given."""
    return yaml.safe_dump(data, default_flow_style=False, sort_keys=False).strip()
