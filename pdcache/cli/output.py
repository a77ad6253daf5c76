"""How commands speak: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape

from pdcache.checks import Finding
from pdcache.errors import PdcacheError

# In a pipe there is no edge to wrap at.
out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, width=None if sys.stderr.isatty() else 160)

_COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}


def print_json(data: Any) -> None:
    """A result for programs: plain JSON on stdout."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")


def print_findings(findings: Iterable[Finding], console: Console) -> None:
    """Each finding with its place and the YAML that mends it."""
    for finding in findings:
        colour = _COLOURS[finding.severity]
        console.print(
            f"[{colour}]{finding.severity}[/] [bold]{finding.rule}[/] at {escape(finding.path)}: "
            f"{escape(finding.message)}"
        )
        if finding.fix:
            indented = "\n".join(f"    {line}" for line in finding.fix.splitlines())
            console.print(escape(indented), style="green", highlight=False)


def fail(error: PdcacheError) -> None:
    """One paragraph: what is wrong, where, how to mend it; then the end of the guilty log."""
    err.print(f"[red]error[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    if error.log_tail:
        err.print("[dim]end of its log:[/]")
        err.print(escape(error.log_tail), style="dim", highlight=False, soft_wrap=True)
