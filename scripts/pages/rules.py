"""docs/rules.md: every rule of `pdcache check`, and the failures that are known to be silent."""

from __future__ import annotations

import ast
import inspect
import textwrap

from pages.markdown import GENERATED, table, text
from pdcache.checks import RULES, Rule
from pdcache.checks.failures import KNOWN_FAILURES, KnownFailure


def rules_page() -> str:
    """Every rule of `pdcache check`."""
    parts = [
        GENERATED,
        "# The rules of `pdcache check`\n",
        "`check`, `plan` and `up` apply all of them; an error stops `check` and `up`. A finding "
        "names its place in the YAML and carries the corrected YAML. `--skip-check RULE` leaves "
        "one out.\n",
    ]
    for rule in RULES.values():
        parts += [
            f"## `{rule.id}`\n",
            text(inspect.getdoc(rule.apply) or ""),
            f"* Why: {rule.why}.\n* Severity: {' or '.join(severities(rule))}.\n",
        ]
    parts += [
        "## Failures that were reported as silent\n",
        "Numbers are issues of the projects named. A canary is a part of the proof that `up` and "
        "`verify` run (see [verifying](verifying.md)).\n",
        table(
            ("reported", "what happens", "caught by"),
            [(one.reported, one.symptom, _catchers(one)) for one in KNOWN_FAILURES],
        ),
    ]
    return "\n".join(parts)


def severities(rule: Rule) -> list[str]:
    """Severities a rule's findings can have, worst first."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(rule.apply)))
    said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return [severity for severity in ("error", "warning", "info") if severity in said]


def _catchers(failure: KnownFailure) -> str:
    rules = [f"rule [`{name}`](#{name})" for name in failure.rules]
    canary = [f"canary *{failure.canary}*"] if failure.canary else []
    return "; ".join([*rules, *canary, *filter(None, [failure.otherwise])])
