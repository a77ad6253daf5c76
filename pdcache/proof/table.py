"""The proof as a table: hop, evidence, tokens by tier, verdict."""

from __future__ import annotations

from rich.table import Table

from pdcache.proof.canary import Proof


def proof_table(proof: Proof) -> Table:
    """A row a canary."""
    table = Table(title="proof of reuse", title_justify="left")
    for column in ("canary", "hop"):
        table.add_column(column, overflow="fold")
    for column in ("device", "host", "storage", "expected L3"):
        table.add_column(column, justify="right")
    for column in ("tokens", "verdict"):
        table.add_column(column)
    for canary in proof.canaries:
        tiers = canary.cached_tokens
        table.add_row(
            canary.name, canary.hop, str(tiers["device"]), str(tiers["host"]),
            str(tiers["storage"]), str(canary.expected_storage_tokens),
            "equal" if canary.tokens_equal else "[red]DIFFER[/]",
            f"[green]proved[/] {canary.seconds:.1f} s" if canary.proved else "[red]FAILED[/]",
        )  # fmt: skip
    return table
