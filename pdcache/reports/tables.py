"""Reports as tables for the terminal, 80 columns wide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from pdcache.replay.numbers import milliseconds, ratio, seconds
from pdcache.reports.compare import METRICS, Comparison
from pdcache.reports.report import Report
from pdcache.reports.words import estimate_text

_TOTAL = "2+"


def turn_table(report: Report) -> Table:
    """One replay: a row a turn, and one for all turns from the second on.

    Device, host and L3 are tokens reused from each tier; times are p50/p95.
    """
    table = _table(f"{report['mode']}, pages of {report['page_size']} tokens")
    for name in (
        "turn", "done", "fail", "device", "host", "L3", "ceiling", "hit/\nceil",
        "TTFT s\np50/p95", "TPOT ms\np50/p95",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    rows = _rows(report)
    for index, (turn, row) in enumerate(rows):
        ttft, tpot = row["ttft_s"], row["tpot_s"]
        table.add_row(
            turn,
            str(row["requests"]),
            str(row["errors"]),
            *_tiers(row),
            str(row["ceiling_tokens"]),
            ratio(row["hit_over_ceiling"]),
            f"{seconds(ttft['p50'])}/{seconds(ttft['p95'])}",
            f"{milliseconds(tpot['p50'])}/{milliseconds(tpot['p95'])}",
            end_section=index == len(rows) - 2,
        )
    return table


def side_by_side(reports: Mapping[str, Report]) -> Table:
    """Replays of the same sessions, turn by turn; times also as a factor of the first one's."""
    table = _table(" / ".join(reports))
    table.add_column("turn", justify="right")
    table.add_column("run")
    for name in ("hit/\nceil", "device", "host", "L3", "TTFT s\np50", "TPOT ms\np50"):
        table.add_column(name, justify="right")
    runs = {name: dict(_rows(report)) for name, report in reports.items()}
    turns = sorted({turn for rows in runs.values() for turn in rows if turn != _TOTAL}, key=int)
    for turn in [*turns, _TOTAL]:
        present = [name for name in runs if turn in runs[name]]
        first = next(iter(runs.values())).get(turn)
        for name in present:
            row = runs[name][turn]
            base = first if row is not first else None
            table.add_row(
                turn if name == present[0] else "",
                name,
                ratio(row["hit_over_ceiling"]),
                *_tiers(row),
                seconds(row["ttft_s"]["p50"]) + _factor(row, base, "ttft_s"),
                milliseconds(row["tpot_s"]["p50"]) + _factor(row, base, "tpot_s"),
                end_section=name == present[-1],
            )
    return table


def comparison_table(comparison: Comparison) -> Table:
    """A row a number, a column a group: mean and half of the 95 % interval over repetitions.

    A star marks what lies apart from the first group: their intervals do not touch.
    """
    groups = comparison["groups"]
    table = _table("mean ± half of the 95 % interval over repetitions; * apart from the first")
    table.add_column("")
    for group in groups:
        table.add_column(f"{group['label']}\n{group['runs']} run(s)", justify="right")
    for metric in METRICS:
        found = [group["numbers"].get(metric.name) for group in groups]
        if any(found):
            table.add_row(metric.label, *(estimate_text(number, metric.kind) for number in found))
    return table


def _table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)


def _rows(report: Report) -> list[tuple[str, dict[str, Any]]]:
    turns = [(str(row["turn"]), row) for row in report["turns"]]
    return [*turns, (_TOTAL, report["total"])]


def _tiers(row: Mapping[str, Any]) -> tuple[str, str, str]:
    cached = row["cached_tokens"]
    return str(cached["device"]), str(cached["host"]), str(cached["storage"])


def _factor(row: Mapping[str, Any], base: Mapping[str, Any] | None, key: str) -> str:
    if base is None or not base[key]["p50"] or row[key]["p50"] is None:
        return ""
    return f" (x{row[key]['p50'] / base[key]['p50']:.2f})"
