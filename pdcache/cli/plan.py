"""``plan``: exactly what a topology would run, as a table, JSON, a script, a lock, a difference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pdcache.checks import check
from pdcache.cli.gather import gather
from pdcache.cli.options import Here, Json, Set, SkipCheck, TopologyFile
from pdcache.cli.output import err, out, print_findings, print_json
from pdcache.plan import Plan, build_plan
from pdcache.plan.difference import Difference, differences
from pdcache.plan.lock import lock_text
from pdcache.plan.portable import portable
from pdcache.plan.shell import shell_script
from pdcache.topology import Topology, load_topology
from pdcache.topology.facts import Facts, local_node


def plan_command(
    file: TopologyFile,
    set_: Set = None,
    skip_check: SkipCheck = None,
    here: Here = False,
    json: Json = False,
    shell: Annotated[
        bool, typer.Option("--shell", help="Print a script that runs the plan by hand.")
    ] = False,
    diff: Annotated[
        Path | None,
        typer.Option("--diff", metavar="OTHER", help="Show what differs, from OTHER to FILE."),
    ] = None,
    lock: Annotated[
        Path | None,
        typer.Option("--lock", metavar="LOCK", help="Write a lock file for `up --locked`."),
    ] = None,
) -> None:
    """Show the exact processes `up` would run: argv, env, ports, memory, and why each flag is so.

    Starts nothing; needs no Ray and no GPU. With --diff, --set applies to both files; exit 1 when
    they differ.

    Example: pdcache plan topologies/full_offload.yaml --shell > run.sh && bash run.sh

    Example: pdcache plan --diff topologies/prefill_only.yaml topologies/full_offload.yaml
    """
    topology = load_topology(file, set_ or ())
    facts = _facts(topology, here)
    findings = check(topology, facts, skip=skip_check or ())
    plan = build_plan(topology, facts)
    if diff is not None:
        other = load_topology(diff, set_ or ())
        other_facts = _facts(other, here)
        before = portable(build_plan(other, other_facts), other_facts)
        found = differences(before, portable(plan, facts))
        print_differences(found, json)
        raise typer.Exit(1 if found else 0)
    if lock is not None:
        lock.write_text(lock_text(topology, plan, facts), encoding="utf-8")
        err.print(f"locked: {lock}")
    elif json:
        print_json(plan.as_json())
    elif shell:
        typer.echo(shell_script(plan))
    else:
        print_plan(plan)
    print_findings(findings, err)


def print_differences(found: list[Difference], json: bool = False) -> None:
    """Differences by process, as a diff shows them."""
    if json:
        print_json({"schema": 1, "differences": [one.as_json() for one in found]})
        return
    for process in dict.fromkeys(one.process for one in found):
        out.print(f"[bold]{process}[/]", highlight=False)
        for one in found:
            if one.process != process:
                continue
            for line in str(one).splitlines():
                colour = "red" if line.startswith("-") else "green"
                out.print(f"  {escape(line)}", style=colour, highlight=False, soft_wrap=True)
    if not found:
        out.print("no difference.")


def print_plan(plan: Plan) -> None:
    """The plan for a person to read."""
    for process in plan.processes:
        place = process.url or f"{process.address}:{process.health_port}"
        out.print(f"\n[bold]{process.name}[/]  {process.role.value}  {place}", highlight=False)
        origins = plan.provenance.get(process.name)
        if origins is None:
            out.print(f"  {escape(' '.join(process.argv))}", highlight=False)
        else:
            table = Table(show_header=True, box=None, pad_edge=False, padding=(0, 2, 0, 0))
            for column in ("  flag", "value", "from", "why"):
                table.add_column(column, overflow="fold")
            for flag, origin in origins.items():
                value = "" if origin.value is True else str(origin.value)
                table.add_row(f"  {flag}", escape(value), origin.origin, escape(origin.reason))
            out.print(table)
        if process.env:
            pairs = " ".join(f"{key}={value}" for key, value in process.env.items())
            out.print(f"  env {escape(pairs)}", style="dim", highlight=False)
        for path in process.files:
            out.print(f"  file {escape(path)}", style="dim", highlight=False)
    _print_formats(plan)
    for node in plan.memory:
        out.print(
            f"\n[bold]memory[/] node {node.node}: {node.needed_bytes / 1e9:.1f} GB of "
            f"{node.available_bytes / 1e9:.1f} GB", highlight=False,
        )  # fmt: skip
        for part, size in node.parts.items():
            out.print(f"  {part:32s} {size / 1e9:7.2f} GB", highlight=False)


def _print_formats(plan: Plan) -> None:
    out.print("\n[bold]pages[/]", highlight=False)
    for role, own in plan.formats.items():
        size = f"{own.token_bytes * own.page_size:,} bytes a rank" if own.token_bytes else "size ?"
        objects = f"{len(own.key_suffixes)} objects in L3" if own.keys_known else "objects in L3: ?"
        out.print(
            f"  {role:8s} {own.page_size} tokens, {size}, {objects}, {own.layout}, {own.dtype}, "
            f"namespace {own.namespace}", highlight=False,
        )  # fmt: skip


def _facts(topology: Topology, here: bool) -> Facts:
    # A plan may be shown while its ports are in use, by the cluster itself for example.
    nodes = (local_node(),) if here else None
    return gather(topology, nodes=nodes, port_free=lambda port: True)
