"""``verify``: the proof again, on a live cluster; or an audit of its dialogues."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pdcache.cli.options import ClusterName, Json
from pdcache.cli.output import err, out, print_json
from pdcache.cluster.record import the_record
from pdcache.cluster.states import ProcessState
from pdcache.proof import prove
from pdcache.proof.table import proof_table

if TYPE_CHECKING:
    from pdcache.cluster.client import ClusterClient
    from pdcache.plan import Plan
    from pdcache.proof.audit import Audit

SAMPLES, SECONDS = 8, 10.0
SPEAK_EVERY_S = 5.0


def verify_command(
    name: ClusterName = None,
    audit: Annotated[
        bool,
        typer.Option("--audit", help="Ask prompts of live dialogues again; needs KV events."),
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help=f"--audit: dialogues at most. [default: {SAMPLES}]"
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.5, metavar="S", help=f"--audit: listen to events for that long. "
            f"[default: {SECONDS:g}]",
        ),
    ] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Prove again that a live cluster reuses KV on every hop. Exit 1 when it does not.

    Flushes L1 and L2 of the prefill workers when they are idle; L3 keeps all it has.

    With --audit: takes prompts of dialogues from KV events, asks each again with its KV reused
    and without, and compares the answers. Exit 1 when one differs. Flushes nobody.

    Example: pdcache verify full-offload --json

    Example: pdcache verify full-offload --audit --seconds 30
    """
    from pdcache.cluster.client import ClusterClient

    if not audit and (samples or seconds):
        raise typer.BadParameter("--samples and --seconds belong to --audit.")
    client = ClusterClient(the_record(name))
    if audit:
        good = _audit(client, samples or SAMPLES, seconds or SECONDS, json)
    else:
        good = _prove(client, json)
    client.close()
    if not good:
        raise typer.Exit(1)


def _of_those_in_service(client: ClusterClient) -> Plan:
    """The plan without workers that are drained or held out of the gateway by a change."""
    plan = client.plan()
    away = {
        own.name
        for own in client.status().workers
        if own.held is not None or own.state is ProcessState.STOPPED
    }
    return replace(plan, processes=tuple(own for own in plan.processes if own.server not in away))


def _prove(client: ClusterClient, json: bool) -> bool:
    plan = _of_those_in_service(client)
    proof = prove(
        plan,
        client.keys(),
        on_canary=lambda canary: _say(
            f"{'proved' if canary.proved else 'FAILED'}: {canary.name}: {canary.evidence}"
        ),
    )
    client.mark_proved(proof.proved, proof.reasons())
    if json:
        print_json(proof.as_json())
    else:
        out.print(proof_table(proof))
        for canary in proof.canaries:
            for cause in canary.causes:
                out.print(f"  {canary.name}: {cause}", highlight=False, markup=False)
    return proof.proved


def _audit(client: ClusterClient, samples: int, seconds: float, json: bool) -> bool:
    from pdcache.proof.audit import audit, dialogues, pick

    plan = client.plan()
    with err.status("listening") as spinner:
        spoke_s = 0.0

        def progress(elapsed_s: float, pages: int) -> None:
            nonlocal spoke_s
            text = f"listened {elapsed_s:.0f} of {seconds:g} s: {pages} pages"
            spinner.update(text)
            if not err.is_terminal and elapsed_s - spoke_s >= SPEAK_EVERY_S:
                spoke_s = elapsed_s
                _say(text)

        _say(f"listening to KV events for {seconds:g} s")
        chains = dialogues(plan, seconds, on_progress=progress)
    picked = pick(chains, samples, secrets.SystemRandom())
    _say(f"{len(chains)} dialogues were heard; {len(picked)} are asked again")
    healthy = {
        own.name
        for own in client.status().workers
        if own.state is ProcessState.HEALTHY and own.held is None
    }
    result = audit(plan, client.keys(), healthy, picked, on_sample=lambda each: _say(str(each)))
    # An audit that passes takes no doubt of a proof away: it sees fewer hops.
    if wrong := result.wrong():
        client.mark_proved(False, wrong)
    if json:
        print_json(result.as_json())
    else:
        out.print(_audit_table(result))
    if all(sample.tokens_equal is None for sample in result.samples):
        _say(
            "nothing was reused, so nothing is audited: these pages have left L1, L2 and L3, "
            "or their requests have an extra_key, which events do not tell."
        )
    return result.audited


def _audit_table(result: Audit) -> Table:
    table = Table(title="audit of dialogues", title_justify="left")
    table.add_column("prefill -> decode", no_wrap=True)
    for column in ("prompt tokens", "device/host/L3"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    verdicts = {True: "[green]equal[/]", False: "[red]DIFFERS[/]", None: "[yellow]no reuse[/]"}
    for sample in result.samples:
        table.add_row(
            f"{sample.prefill} -> {sample.decode}",
            str(sample.prompt_tokens),
            "/".join(str(count) for count in sample.cached_tokens.values()),
            f"{verdicts[sample.tokens_equal]}\n[dim]{sample.evidence}[/]",
        )
    return table


def _say(text: str) -> None:
    err.print(text, highlight=False, markup=False)
