"""What is in a trace as tables for the terminal, 80 columns wide."""

from __future__ import annotations

from rich import box
from rich.bar import Bar
from rich.table import Table

from pdcache.traces.stats import TraceStats

_WIDTH = 34


def counts_table(stats: TraceStats) -> Table:
    """Requests and their lengths."""
    rate = f", {stats.requests / stats.span_s:.2f} a second" if stats.span_s else ""
    table = Table(
        title=f"{stats.requests:,} requests in {stats.span_s:,.0f} s{rate}",
        box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False,
    )  # fmt: skip
    for name in ("", "total", "mean", "p50", "p90", "p99", "max"):
        table.add_column(name, justify="right" if name else "left")
    for name, lengths in (
        ("prompts, tokens", stats.input_tokens),
        ("questions, characters", stats.input_characters),
        ("answers, tokens", stats.output_tokens),
    ):
        if lengths is None:
            continue
        table.add_row(
            name, f"{lengths.total:,}", f"{lengths.mean:,.0f}",
            *(f"{value:,}" for value in (lengths.p50, lengths.p90, lengths.p99, lengths.max)),
        )  # fmt: skip
    return table


def curve_table(stats: TraceStats) -> Table:
    """Hits by capacity under LRU, as bars, and at best; the last row is the ceiling."""
    assert stats.ceiling_blocks is not None and stats.block_size is not None
    table = Table(
        title=f"{stats.block_refs:,} blocks of {stats.block_size} tokens, "
        f"{stats.unique_blocks:,} different ones",
        box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False,
    )  # fmt: skip
    for name in ("cache of\nblocks", "\ntokens", "hits\nLRU", "hits\nbest"):
        table.add_column(name, justify="right")
    table.add_column("LRU in proportion to\nan unlimited cache")
    ceiling = stats.ceiling_blocks
    for capacity, share in stats.lru.items():
        table.add_row(
            f"{capacity:,}",
            _short(capacity * stats.block_size),
            _percent(share),
            _percent(stats.optimal.get(capacity)),
            Bar(ceiling or 1.0, 0, share, width=_WIDTH, color="cyan"),
        )
    table.add_section()
    bar = Bar(1.0, 0, 1.0 if ceiling else 0.0, width=_WIDTH, color="green")
    table.add_row("unlimited", "", _percent(ceiling), _percent(ceiling), bar)
    return table


def ceiling_lines(stats: TraceStats) -> list[str]:
    """The ceiling in sentences."""
    lines = [
        f"ceiling: {_percent(stats.ceiling_blocks)} of blocks, "
        f"{_percent(stats.ceiling_tokens)} of prompt tokens"
    ]
    if stats.ceiling_pages is not None:
        pages = f"in whole pages of {stats.page_size} tokens"
        lines.append(f"{pages}: {_percent(stats.ceiling_pages)} of prompt tokens")
    return lines


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _short(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
