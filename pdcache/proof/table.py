"""The proof as a table: hop, evidence, tokens by tier, verdict."""

from __future__ import annotations

from rich.table import Table

from pdcache.proof.canary import Proof


def proof_table(proof: Proof) -> Table:
    """A row a canary."""
    table = Table(title="proof of reuse", title_justify="left")
    table.add_column("canary", no_wrap=True)
    for column in ("device/host/L3", "expected L3"):
        table.add_column(column, justify="right")
    for column in ("tokens", "verdict"):
        table.add_column(column)
    for canary in proof.canaries:
        tiers = canary.cached_tokens
        table.add_row(
            f"{canary.name}\n[dim]{canary.hop}[/]",
            f"{tiers['device']}/{tiers['host']}/{tiers['storage']}",
            str(canary.expected_storage_tokens),
            "equal" if canary.tokens_equal else "[red]DIFFER[/]",
            f"[green]proved[/]\n{canary.seconds:.1f} s" if canary.proved else "[red]FAILED[/]",
        )
    return table
