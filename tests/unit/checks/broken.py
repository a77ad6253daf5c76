"""What breaks a rule, as data."""

from __future__ import annotations

from dataclasses import dataclass

from golden.plans import ONE_CPU_NODE

from pdcache.topology.facts import Node


@dataclass(frozen=True)
class Broken:
    """YAML over `BASE` and the finding it gives: rule, severity, path, and whether its fix is YAML
    that mends it (or a comment that says what to take out).

    ``nodes``: there are; None: those that the topology is meant for.
    """

    rule: str
    yaml: str
    severity: str
    path: str
    fixed_by_yaml: bool = True
    nodes: tuple[Node, ...] | None = ONE_CPU_NODE

    @property
    def label(self) -> str:
        """Name of the case in test reports."""
        return f"{self.rule}: {' '.join(self.yaml.split())}"
