"""``check`` and ``plan``: what is wrong with a topology, and exactly what it would run."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pdcache.checks import check
from pdcache.cli.gather import gather
from pdcache.cli.options import Json, Set, SkipCheck, TopologyFile
from pdcache.cli.output import err, out, print_findings, print_json
from pdcache.plan import Plan, build_plan
from pdcache.plan.shell import shell_script
from pdcache.topology import load_topology


def check_command(
    file: TopologyFile, set_: Set = None, skip_check: SkipCheck = None, json: Json = False
) -> None:
    """Find mistakes before anything starts: silent misses, silent wrong KV, too little memory.

    Needs no Ray and no GPU. Exit 1 when a finding is an error.

    Example: pdcache check topologies/full_offload.yaml --set decode.hicache.io_backend=kernel
    """
    topology = load_topology(file, set_ or ())
    findings = check(topology, gather(topology), skip=skip_check or ())
    if json:
        print_json({"schema": 1, "findings": [finding.as_json() for finding in findings]})
    else:
        print_findings(findings, out)
        if not findings:
            out.print(f"[green]ok[/] {file}: nothing found.")
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


def plan_command(
    file: TopologyFile,
    set_: Set = None,
    skip_check: SkipCheck = None,
    json: Json = False,
    shell: Annotated[
        bool, typer.Option("--shell", help="Print a script that runs the plan by hand.")
    ] = False,
) -> None:
    """Show the exact processes `up` would run: argv, env, ports, memory, and why each flag is so.

    Starts nothing; needs no Ray and no GPU.

    Example: pdcache plan topologies/full_offload.yaml --shell > run.sh && bash run.sh
    """
    topology = load_topology(file, set_ or ())
    # A plan may be shown while its ports are in use, by the cluster itself for example.
    facts = gather(topology, port_free=lambda port: True)
    findings = check(topology, facts, skip=skip_check or ())
    plan = build_plan(topology, facts)
    if json:
        print_json(plan.as_json())
    elif shell:
        typer.echo(shell_script(plan))
    else:
        print_plan(plan)
    print_findings(findings, err)


def print_plan(plan: Plan) -> None:
    """The plan for a person to read."""
    for process in plan.processes:
        place = process.url or f"{process.address}:{process.health_port}"
        out.print(f"\n[bold]{process.name}[/]  {process.role.value}  {place}", highlight=False)
        origins = plan.provenance.get(process.name)
        if origins is None:
            out.print(f"  {escape(' '.join(process.argv))}", highlight=False)
            continue
        table = Table(show_header=True, box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("  flag", "value", "from", "why"):
            table.add_column(column, overflow="fold")
        for flag, origin in origins.items():
            value = "" if origin.value is True else str(origin.value)
            table.add_row(f"  {flag}", escape(value), origin.origin, escape(origin.reason))
        out.print(table)
        out.print(
            "  env " + escape(" ".join(f"{k}={v}" for k, v in process.env.items())), style="dim",
            highlight=False,
        )  # fmt: skip
    for node in plan.memory:
        out.print(
            f"\n[bold]memory[/] node {node.node}: {node.needed_bytes / 1e9:.1f} GB of "
            f"{node.available_bytes / 1e9:.1f} GB", highlight=False,
        )  # fmt: skip
        for part, size in node.parts.items():
            out.print(f"  {part:32s} {size / 1e9:7.2f} GB", highlight=False)
