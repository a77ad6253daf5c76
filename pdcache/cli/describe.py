"""``check``, ``explain``, ``schema``: what is wrong with a topology, why, what it may hold."""

from __future__ import annotations

import difflib
import inspect
from typing import Annotated

import typer

from pdcache.checks import RULES, check
from pdcache.cli.gather import gather
from pdcache.cli.options import Here, Json, Set, SkipCheck, TopologyFile
from pdcache.cli.output import out, print_findings, print_json
from pdcache.errors import TopologyError
from pdcache.topology import Topology, load_topology
from pdcache.topology.facts import local_node


def check_command(
    file: TopologyFile,
    set_: Set = None,
    skip_check: SkipCheck = None,
    here: Here = False,
    json: Json = False,
) -> None:
    """Find mistakes before anything starts: silent misses, silent wrong KV, too little memory.

    Needs no Ray and no GPU. Exit 1 when a finding is an error.

    Example: pdcache check topologies/full_offload.yaml --set decode.hicache.io_backend=kernel
    """
    topology = load_topology(file, set_ or ())
    facts = gather(topology, nodes=(local_node(),) if here else None)
    findings = check(topology, facts, skip=skip_check or ())
    if json:
        print_json({"schema": 1, "findings": [finding.as_json() for finding in findings]})
    else:
        print_findings(findings, out)
        if not findings:
            out.print(f"[green]ok[/] {file}: nothing found.")
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


def explain_command(
    rule: Annotated[
        str | None, typer.Argument(metavar="[RULE]", help="A rule's id; unset: list them all.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what a rule of `check` asks for, and what would happen without it.

    Example: pdcache explain prefetch-threshold
    """
    if rule is not None and rule not in RULES:
        close = difflib.get_close_matches(rule, RULES, n=1, cutoff=0.4)
        raise TopologyError(
            f"there is no rule named {rule}.",
            remedy=f"Did you mean {close[0]}?" if close else f"Rules: {', '.join(RULES)}.",
        )
    chosen = [RULES[rule]] if rule is not None else list(RULES.values())
    texts = {one.id: inspect.getdoc(one.apply) or "" for one in chosen}
    if json:
        rows = [{"rule": one.id, "asks": texts[one.id], "why": one.why} for one in chosen]
        print_json({"schema": 1, "rules": rows})
    elif rule is None:
        width = max(map(len, texts))
        for name, text in texts.items():
            out.print(f"[bold]{name:{width}s}[/]  {text}", highlight=False)
    else:
        out.print(f"[bold]{rule}[/]: {texts[rule]}\nWhy: {chosen[0].why}.", highlight=False)


def schema_command() -> None:
    """Print the JSON Schema of the topology, for editors that complete and check YAML.

    Example: pdcache schema > topology.schema.json, and in the YAML's first line:
    # yaml-language-server: $schema=topology.schema.json
    """
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    print_json(draft | Topology.model_json_schema())
