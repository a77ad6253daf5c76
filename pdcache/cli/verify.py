"""``verify``: the proof again, on a live cluster."""

from __future__ import annotations

import typer

from pdcache.cli.options import ClusterName, Json
from pdcache.cli.output import err, out, print_json
from pdcache.cluster.record import the_record
from pdcache.proof import prove
from pdcache.proof.table import proof_table


def verify_command(name: ClusterName = None, json: Json = False) -> None:
    """Prove again that a live cluster reuses KV on every hop. Exit 1 when it does not.

    Flushes L1 and L2 of the prefill workers when they are idle; L3 keeps all it has.

    Example: pdcache verify full-offload --json
    """
    from pdcache.cluster.client import ClusterClient

    client = ClusterClient(the_record(name))
    plan = client.plan()
    proof = prove(
        plan,
        client.keys(),
        on_canary=lambda canary: err.print(
            f"{'proved' if canary.proved else 'FAILED'}: {canary.name}: {canary.evidence}",
            highlight=False, markup=False,
        ),
    )  # fmt: skip
    client.mark_proved(proof.proved, proof.reasons())
    client.close()
    if json:
        print_json(proof.as_json())
    else:
        out.print(proof_table(proof))
        for canary in proof.canaries:
            for cause in canary.causes:
                out.print(f"  {canary.name}: {cause}", highlight=False, markup=False)
    if not proof.proved:
        raise typer.Exit(1)
