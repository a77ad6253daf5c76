"""``apply``, ``scale``, ``drain``, ``restart`` and ``change``: changes of a live cluster."""

from __future__ import annotations

from typing import Annotated

import typer
import yaml

from pdcache.changes.change import Change, ChangeState, Step
from pdcache.changes.kinds import has_storage, refuse_impossible, without_storage
from pdcache.changes.run import roll_back
from pdcache.changes.steps import drain_steps, parts, refuse_outage, steps_between
from pdcache.checks import check
from pdcache.cli.follow import follow
from pdcache.cli.gather import gather
from pdcache.cli.options import AllowOutage, ClusterName, Json, Limit, Set, SkipCheck, TopologyFile
from pdcache.cli.output import err, out, print_findings, print_json
from pdcache.cluster.client import ClusterClient
from pdcache.cluster.desired import Desired
from pdcache.cluster.port_book import PortBook
from pdcache.cluster.record import the_record
from pdcache.errors import ClusterError
from pdcache.plan import Plan, Process, build_plan
from pdcache.topology import Topology, load_topology, parse_topology
from pdcache.topology.schema import WORKER_ROLES, Role, dump


def apply_command(
    file: TopologyFile,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the cluster instead of the file's.")
    ] = None,
    set_: Set = None,
    skip_check: SkipCheck = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the steps and do none of them.")
    ] = False,
    allow_outage: AllowOutage = False,
    timeout: Limit = 600.0,
    json: Json = False,
) -> None:
    """Make a live cluster what an edited topology says, with the least that does it.

    Workers are added, changed one at a time while the others serve, then removed. What differs in
    nothing is left alone; policies and storage options of prefill change without a restart, unless
    a server spans nodes. What cannot change while requests run (model, page size, layout, dtype,
    store) is refused. Another setting of the gateway replaces it: connections are refused for a
    second or two, requests that run are cut, and --allow-outage is needed.

    Example: pdcache apply topologies/full_offload.yaml --set prefill.workers=3 --dry-run
    """
    overrides = [*(set_ or ()), *([f"name={name}"] if name else [])]
    topology = load_topology(file, overrides)
    client = ClusterClient(the_record(topology.name))
    change = change_to(client, topology, f"apply {file}", skip_check or [], allow_outage, timeout)
    run(client, change, json=json, dry_run=dry_run)


def scale_command(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="[NAME] ROLE=N...", help="prefill=N, decode=N, or both."),
    ],
    allow_outage: AllowOutage = False,
    timeout: Limit = 600.0,
    json: Json = False,
) -> None:
    """Add or remove prefill and decode workers of a live cluster.

    A new worker is proved before it gets requests. One that goes finishes its requests, and what
    it has to write reaches L3, before it is stopped.

    Example: pdcache scale full-offload prefill=3 decode=2
    """
    names = [word for word in arguments if "=" not in word]
    counts = [word.partition("=") for word in arguments if "=" in word]
    if len(names) > 1 or not counts:
        raise typer.BadParameter("write [NAME] prefill=N decode=N.", param_hint="ROLE=N")
    overrides = []
    for role, _, count in counts:
        if role not in WORKER_ROLES or not count.isdigit():
            raise typer.BadParameter(
                f"{role}={count}: write prefill=N or decode=N.", param_hint="ROLE=N"
            )
        overrides.append(f"{role}.workers={count}")
    client = ClusterClient(the_record(names[0] if names else None))
    topology = overlaid(client.desired(), overrides)
    title = f"scale {' '.join(word for word in arguments if '=' in word)}"
    run(client, change_to(client, topology, title, [], allow_outage, timeout), json=json)


def drain_command(
    worker: Annotated[str, typer.Argument(help="Worker, for example prefill-1.")],
    name: ClusterName = None,
    allow_outage: AllowOutage = False,
    timeout: Limit = 600.0,
    json: Json = False,
) -> None:
    """Take a worker out of service: its requests end, its KV reaches L3, then it is stopped.

    It stays a part of the cluster; `pdcache restart` brings it back.

    Example: pdcache drain prefill-1 full-offload
    """
    client = ClusterClient(the_record(name))
    own = client.desired()
    refuse_another(own)
    steps = drain_steps(server(own.plan, worker))
    if not allow_outage:
        refuse_outage(own.plan, steps, serving(client, own))
    run(client, change_of(own, f"drain {worker}", steps, timeout), json=json)


def restart_command(
    target: Annotated[str, typer.Argument(help="Worker or role: prefill-0, decode, gateway.")],
    name: ClusterName = None,
    allow_outage: AllowOutage = False,
    timeout: Limit = 600.0,
    json: Json = False,
) -> None:
    """Restart a worker, or all of a role one at a time, while the others serve.

    Each is drained first, and proved before it gets requests again. There is one gateway only:
    while it is replaced connections are refused for a second or two, requests that run are cut, and
    --allow-outage is needed.

    Example: pdcache restart prefill full-offload
    """
    client = ClusterClient(the_record(name))
    own = client.desired()
    refuse_another(own)
    if target in WORKER_ROLES:
        names = {part.server for part in own.plan.processes if part.role.value == target}
    else:
        names = {server(own.plan, target)[0].server}
    steps = steps_between(own.plan, own.plan, restart=frozenset(names))
    if not allow_outage:
        refuse_outage(own.plan, steps, serving(client, own))
    run(client, change_of(own, f"restart {target}", steps, timeout), json=json)


def change_command(
    name: ClusterName = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a change that failed.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Take back a change that failed.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the last change of a cluster step by step; finish one that failed.

    Example: pdcache change full-offload --rollback
    """
    if resume and rollback:
        raise typer.BadParameter("give one of them.", param_hint="--resume, --rollback")
    client = ClusterClient(the_record(name))
    own = client.desired()
    change = own.change
    if change is None:
        if json:
            print_json({"schema": 1, "change": None})
        else:
            out.print("this cluster was never changed.")
        return
    if resume or rollback:
        if not change.is_open_failure:
            raise ClusterError(f"there is nothing to finish: {change.verdict()}.")
        if rollback and not change.rolling_back:
            change = roll_back({process.name for process in own.plan.processes}, change)
        change.state = ChangeState.RUNNING
        run(client, change, json=json)
        return
    follow(client, change.id, json=json, wait=False)


def change_to(
    client: ClusterClient,
    topology: Topology,
    title: str,
    skip_check: list[str],
    allow_outage: bool,
    limit_s: float,
    *,
    detached: bool | None = None,
) -> Change:
    """The change that leads from what a cluster is to a topology.

    Args:
        detached: whether workers are without L3 afterwards; unset, as they are now.

    Raises:
        ClusterError: it cannot be done while the cluster serves.
    """
    own = client.desired()
    refuse_another(own)
    if topology.gateway.key_file != own.topology.gateway.key_file:
        raise ClusterError(
            "the gateway's key cannot change while the cluster serves.",
            where="gateway.key_file",
            remedy=f"`pdcache down {own.plan.name}`, then bring the new topology up.",
        )
    book = PortBook()
    facts = gather(topology, nodes=client.nodes(), port_free=book.free)
    findings = check(topology, facts, skip=skip_check)
    print_findings(findings, err)
    if any(finding.severity == "error" for finding in findings):
        err.print("[red]error[/] the topology cannot run here; nothing was changed.")
        raise typer.Exit(1)
    with book.planning():
        plan = build_plan(topology, facts, like=own.plan)
        # What is new is bound when this command has followed the change to its end.
        book.take(set(plan.ports.values()) - set(own.plan.ports.values()))
    refuse_impossible(own.plan, plan)
    if detached is None:
        detached = not any(has_storage(worker) for worker in own.plan.role(Role.PREFILL))
    if detached:
        plan = without_storage(plan)
    steps = steps_between(own.plan, plan, stopped=frozenset(own.stopped))
    if not allow_outage:
        refuse_outage(own.plan, steps, serving(client, own))
    return change_of(own, title, steps, limit_s, plan, topology)


def change_of(
    own: Desired,
    title: str,
    steps: list[Step],
    limit_s: float,
    plan: Plan | None = None,
    topology: Topology | None = None,
) -> Change:
    """A change of a cluster as it is; unset, its plan and topology stay as they are."""
    return Change(
        title, steps, plan or own.plan, topology or own.topology, (own.plan, own.topology),
        limit_s, stopped=frozenset(own.stopped),
    )  # fmt: skip


def overlaid(own: Desired, overrides: list[str]) -> Topology:
    """The topology of a cluster with some values changed."""
    text = yaml.safe_dump(dump(own.topology))
    return parse_topology(text, source=own.plan.name, overrides=overrides)


def refuse_another(own: Desired) -> None:
    """Only one change at a time; see `Change.refuse_another`."""
    if own.change is not None:
        own.change.refuse_another()


def server(plan: Plan, worker: str) -> tuple[Process, ...]:
    """The processes of one server, or the gateway.

    Raises:
        ClusterError: there is no such worker.
    """
    known = [own for own in plan.processes if own.role is not Role.STORE]
    found = parts(plan, worker)
    if not found or found[0] not in known:
        names = ", ".join(dict.fromkeys(own.server for own in known))
        raise ClusterError(f"no worker is named {worker!r}.", remedy=f"Workers: {names}.")
    return found


def serving(client: ClusterClient, own: Desired) -> set[str]:
    """Workers that get requests now."""
    healthy = {row.name for row in client.status().workers if row.state.value == "HEALTHY"}
    return healthy - own.held.keys()


def run(client: ClusterClient, change: Change, *, json: bool, dry_run: bool = False) -> None:
    """Start a change and tell how it goes, until it ends. Exit 1 when it failed."""
    if not change.steps and change.topology == change.before[1]:
        client.close()
        if json:
            print_json({"schema": 1, "change": change.as_json()})
        else:
            out.print("nothing to change.")
        return
    if dry_run:
        client.close()
        if json:
            print_json({"schema": 1, "change": change.as_json()})
        for step in change.steps if not json else ():
            out.print(f"  {step}", highlight=False)
        return
    client.begin(change)
    follow(client, change.id, json=json, wait=True)
