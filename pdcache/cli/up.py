"""``up``: from a topology to a cluster that is proved, with progress, or to a named cause."""

from __future__ import annotations

import signal
import time
from typing import Annotated

import typer

from pdcache.checks import check
from pdcache.cli.gateway_key import gateway_key
from pdcache.cli.gather import gather
from pdcache.cli.interrupts import Interrupts
from pdcache.cli.options import Json, Set, SkipCheck, TopologyFile
from pdcache.cli.output import err, out, print_findings, print_json
from pdcache.cli.plan import print_differences
from pdcache.cli.progress import UpProgress
from pdcache.cluster.bring_down import bring_down
from pdcache.cluster.bring_up import bring_up
from pdcache.cluster.client import ClusterClient
from pdcache.cluster.join import given_nodes, refuse_second, start_local, use_given
from pdcache.cluster.port_book import PortBook
from pdcache.cluster.record import Record
from pdcache.cluster.states import ClusterStatus
from pdcache.errors import ProofError
from pdcache.models import resolve_model
from pdcache.plan import Plan, build_plan
from pdcache.plan.difference import Difference
from pdcache.plan.lock import changes, locked_topology, read_lock
from pdcache.proof import Proof, prove
from pdcache.proof.table import proof_table
from pdcache.sglang.keys import new_keys
from pdcache.topology import Topology, load_topology
from pdcache.topology.facts import local_node


def up_command(
    file: TopologyFile,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the cluster instead of the file's.")
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", help="Seconds until all must be healthy.")
    ] = 900.0,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Prove reuse before saying UP.")
    ] = True,
    locked: Annotated[
        bool,
        typer.Option("--locked", help="FILE is a lock file: refuse to start anything but that."),
    ] = False,
    set_: Set = None,
    skip_check: SkipCheck = None,
    json: Json = False,
) -> None:
    """Bring a topology up on Ray and prove that KV is reused; the cluster stays when it returns.

    Uses the Ray cluster of RAY_ADDRESS, or starts a local head. Ctrl-C leaves nothing behind.

    Example: pdcache up topologies/full_offload.yaml --set gateway.port=9000

    Example: pdcache plan FILE --lock cluster.lock && pdcache up --locked cluster.lock
    """
    overrides = [*(set_ or ()), *([f"name={name}"] if name else [])]
    lock = read_lock(file) if locked else None
    if lock is not None and overrides:
        raise typer.BadParameter("a locked topology is taken as it is.", param_hint="--set, --name")
    topology = load_topology(file, overrides) if lock is None else locked_topology(lock, file)
    refuse_second(topology.name)
    begin = time.monotonic()
    progress = UpProgress(topology.name)
    given = given_nodes(topology.name, min(topology.timeouts.ray_s, timeout))
    book = PortBook()
    facts = gather(
        topology,
        nodes=given[1] if given else (local_node(),),
        port_free=book.free,
        code=lock["code"] if lock is not None else None,
    )
    progress.step("check")
    findings = check(topology, facts, skip=skip_check or ())
    print_findings(findings, err)
    # Here the nodes are the real ones: missing GPUs are no longer a warning.
    if any(finding.severity == "error" or finding.rule == "gpus" for finding in findings):
        err.print("[red]error[/] the topology cannot run here; nothing was started.")
        raise typer.Exit(1)
    with book.planning():
        plan = build_plan(topology, facts)
        book.take(plan.ports.values())
    keys = new_keys(gateway_key(topology))
    if lock is not None:
        _refuse_changes(changes(lock, plan, facts))
    for path in sorted(facts.models):
        resolve_model(path, progress=progress.note)
    # A terminated `up` cleans up as an interrupted one does.
    interrupts = Interrupts()

    def watch(status: ClusterStatus) -> None:
        interrupts.check()
        progress.status(status)

    record: Record | None = None
    try:
        progress.step("ray")
        if given is None:
            record = start_local(plan, topology.timeouts.ray_s)
        else:
            record = use_given(given[0], plan.temp)
        client = bring_up(record, plan, topology, keys, limit_s=timeout, on_status=watch)
        book.close()
        proof = _prove(plan, client, progress) if verify else None
    except BaseException:
        progress.stop()
        err.print("cleaning up ...")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _clean(topology, record)
        raise
    progress.stop()
    _report(topology, plan, proof, client, time.monotonic() - begin, json)


def _refuse_changes(found: list[Difference]) -> None:
    """Exit 1 when anything differs from the lock."""
    if not found:
        return
    print_differences(found)
    err.print(
        "[red]error[/] this is not what was locked; nothing was started. Install what the lock "
        "names, or lock anew with `pdcache plan FILE --lock LOCK`."
    )
    raise typer.Exit(1)


def _prove(plan: Plan, client: ClusterClient, progress: UpProgress) -> Proof:
    progress.step("proof")
    proof = prove(plan, client.keys(), on_canary=progress.canary)
    if not proof.proved:
        progress.stop()
        err.print(proof_table(proof))
        for canary in proof.canaries:
            for cause in canary.causes:
                err.print(f"  {canary.name}: {cause}", highlight=False, markup=False)
        raise ProofError(
            f"reuse is not proved, so {plan.name} is not UP: {'; '.join(proof.reasons())}.",
            remedy="The probable causes stand above, likeliest first.",
        )
    client.mark_proved(True, [])
    return proof


def _clean(topology: Topology, record: Record | None) -> None:
    from pdcache.cluster.record import find

    record = record or find(topology.name)
    if record is not None:
        bring_down(record)


def _report(
    topology: Topology,
    plan: Plan,
    proof: Proof | None,
    client: ClusterClient,
    seconds: float,
    json: bool,
) -> None:
    if proof is None:
        client.mark_proved(False, ["not proved: it was brought up with --no-verify"])
    status = client.status()
    client.close()
    if json:
        print_json(
            status.as_json()
            | {"seconds": round(seconds, 1), "proof": proof.as_json() if proof else None}
        )
        return
    if proof is not None:
        out.print(proof_table(proof))
    verdict = "[green]UP[/]" if proof is not None else "[yellow]UP, not proved[/]"
    out.print(f"{verdict} [bold]{topology.name}[/] in {seconds:.0f} s: {plan.endpoint}")
    key_file = topology.gateway.key_file
    key = f'-H "Authorization: Bearer $(cat {key_file})" ' if key_file else ""
    out.print(
        f"  try: curl {plan.endpoint}/v1/chat/completions {key}-H 'content-type: application/json' "
        f"-d '{{\"model\":\"{plan.formats['prefill'].served_name}\",\"messages\":"
        "[{\"role\":\"user\",\"content\":\"What is the capital of France?\"}]}'",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
