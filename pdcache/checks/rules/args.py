"""The rule on flags that are given to SGLang as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pdcache.checks.finding import Finding
from pdcache.checks.rule import Subject, finding, rule
from pdcache.checks.rules.mode import OWNED
from pdcache.sglang.server_args import canonical, find, mended, nearest, problem
from pdcache.topology.schema import Role
from pdcache.topology.settings import flag_name


@rule("args", "an unknown flag ends the server at start, a minute later, on every node")
def args(subject: Subject) -> Iterable[Finding]:
    """Every entry of ``args`` is a flag of SGLang with a value that it takes."""
    for role in (Role.PREFILL, Role.DECODE):
        for name, value in subject.topology.worker(role).args.items():
            path, arg = f"{role}.args.{name}", find(name)
            if canonical(name) in OWNED:
                continue
            if arg and arg.name == "config":
                yield finding(
                    "args",
                    "error",
                    path,
                    "SGLang would read further flags from that file, and no rule sees them.",
                    fix=f"# remove {path} and write its flags under {role}.args",
                )
            elif message := problem(name, value):
                better = None if arg and arg.deprecated else mended(name, value)
                text = _removal(path, name, value) if better is None else None
                yield finding("args", "error", path, message, better, fix=text)
            elif arg and arg.deprecated:
                yield finding(
                    "args",
                    "warning",
                    path,
                    f"{name} is deprecated; SGLang says to use {arg.deprecated}.",
                    fix=f"# remove {path} and use {arg.deprecated}",
                )


def _removal(path: str, name: str, value: Any) -> str:
    arg = find(name)
    other = nearest(name) if arg is None else arg.name
    if arg and arg.negatable and value is False:
        other = f"no_{arg.name}: true"
    use = f" and use {other}" if other and other != flag_name(name) else ""
    return f"# remove {path}{use}"
