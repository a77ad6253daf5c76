"""``storage``: L3 of a whole live fleet: attach, detach, policies, status."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from pdcache.changes.kinds import BACKEND, OPTIONS, PREFETCH, WRITE, has_storage
from pdcache.cli.changes import change_to, overlaid, run
from pdcache.cli.options import AllowOutage, ClusterName, Json, Limit, Set, SkipCheck
from pdcache.cli.output import out, print_json
from pdcache.cluster.client import ClusterClient
from pdcache.cluster.record import the_record
from pdcache.plan.portable import flags
from pdcache.topology.schema import WORKER_ROLES

app = typer.Typer(no_args_is_help=True, help="L3 of a live cluster: attach, detach, status.")


@app.command("attach")
def attach_command(
    name: ClusterName = None,
    set_: Set = None,
    skip_check: SkipCheck = None,
    allow_outage: AllowOutage = False,
    timeout: Limit = 600.0,
    json: Json = False,
) -> None:
    """Attach every worker to L3, or attach it anew with changed options.

    One worker at a time: out of the gateway, idle, the store's health, detach and attach, a canary
    through L3, back. Decode workers that offload, and servers that span nodes, are restarted
    instead.

    Example: pdcache storage attach full-offload --set hicache.prefetch_timeout_base_s=2
    """
    client = ClusterClient(the_record(name))
    topology = overlaid(client.desired(), set_ or [])
    title = " ".join(["storage attach", *(set_ or [])])
    change = change_to(
        client, topology, title, skip_check or [], allow_outage, timeout, detached=False
    )
    run(client, change, json=json)


@app.command("detach")
def detach_command(
    name: ClusterName = None,
    allow_outage: AllowOutage = False,
    timeout: Limit = 600.0,
    json: Json = False,
) -> None:
    """Detach every worker from L3, so that the store can be maintained; serving goes on.

    Prefill goes on with L1 and L2. Decode workers that offload, and servers that span nodes, are
    restarted one at a time.

    Example: pdcache storage detach full-offload
    """
    client = ClusterClient(the_record(name))
    own = client.desired()
    change = change_to(
        client, own.topology, "storage detach", [], allow_outage, timeout, detached=True
    )
    run(client, change, json=json)


@app.command("policies")
def policies_command(
    name: ClusterName = None,
    prefetch: Annotated[
        str | None, typer.Option("--prefetch", help="best_effort, wait_complete or timeout.")
    ] = None,
    write: Annotated[
        str | None,
        typer.Option(
            "--write",
            help="write_through; with --skip-check write-policy also write_back or "
            "write_through_selective, which keep prompts seen once from other workers.",
        ),
    ] = None,
    skip_check: SkipCheck = None,
    allow_outage: AllowOutage = False,
    timeout: Limit = 600.0,
    json: Json = False,
) -> None:
    """Change the prefetch or write policy of every prefill worker.

    A worker takes it while it runs. Servers that span nodes are restarted, one after the other, and
    so are those that are detached from L3 for another write policy.

    Example: pdcache storage policies full-offload --prefetch timeout
    """
    overrides = [
        *([f"prefill.hicache.prefetch_policy={prefetch}"] if prefetch else []),
        *([f"prefill.hicache.write_policy={write}"] if write else []),
    ]
    if not overrides:
        raise typer.BadParameter("give --prefetch, --write, or both.", param_hint="--prefetch")
    client = ClusterClient(the_record(name))
    topology = overlaid(client.desired(), overrides)
    title = " ".join(["storage policies", *overrides])
    change = change_to(client, topology, title, skip_check or [], allow_outage, timeout)
    run(client, change, json=json)


@app.command("status")
def status_command(name: ClusterName = None, json: Json = False) -> None:
    """Show what each worker has in force. SGLang itself shows what was last asked for.

    Example: pdcache storage status full-offload --json
    """
    client = ClusterClient(the_record(name))
    plan = client.plan()
    client.close()
    rows = []
    for worker in [process for role in WORKER_ROLES for process in plan.role(role)]:
        own = flags(worker)
        rows.append(
            {
                "worker": worker.name,
                "attached": has_storage(worker),
                "backend": own.get(BACKEND),
                "prefetch_policy": own.get(PREFETCH),
                "write_policy": own.get(WRITE) if has_storage(worker) else None,
                "options": own.get(OPTIONS),
            }
        )
    if json:
        print_json({"schema": 1, "workers": rows})
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("worker", "attached", "backend", "prefetch_policy", "write_policy", "options"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(value if value is not None else "") for value in row.values()))
    out.print(table)
