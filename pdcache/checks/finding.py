"""A Finding is data: what a rule saw, where, and the YAML that mends it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One result of one rule.

    Attributes:
        rule: the id to name in ``--skip-check``.
        severity: an ``error`` stops ``up``.
        path: the place in the YAML, dotted.
        message: what is wrong and what it would lead to.
        fix: corrected YAML, ready to paste.
    """

    rule: str
    severity: Severity
    path: str
    message: str
    fix: str

    def as_json(self) -> dict[str, str]:
        """The finding under the key names of ``check --json``."""
        return asdict(self)
