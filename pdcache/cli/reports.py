"""``report`` and ``compare``: what replays have shown, once more and side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pdcache.cli.options import Json, SloOption
from pdcache.cli.output import out, print_json
from pdcache.reports import Slo, compare, read_groups, turn_table, write_comparison, write_report
from pdcache.reports.tables import comparison_table, side_by_side


def report_command(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of `replay --out`.")],
    slo: SloOption = None,
    json: Json = False,
) -> None:
    """Write report.json, report.html and requests.parquet of a replay anew, from what it recorded.

    Example: pdcache report out/run1 --slo ttft=2s,tpot=100ms
    """
    report = write_report(run, Slo.parse(slo) if slo else None)
    if json:
        print_json(report)
        return
    out.print(turn_table(report))
    out.print(f"report: {run / 'report.html'}", highlight=False)


def compare_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of `replay --out`.")
    ],
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write comparison.json and comparison.html."),
    ] = None,
    slo: SloOption = None,
    json: Json = False,
) -> None:
    """Show replays of the same sessions side by side, and whether their answers are the same.

    Folders named NAME/0, NAME/1, ... are repetitions of NAME and are averaged.

    Example: pdcache compare out/prefill_only out/full_offload --out out/both
    """
    comparison = compare(read_groups(runs), Slo.parse(slo) if slo else None)
    if out_dir is not None:
        write_comparison(comparison, out_dir, title=out_dir.name)
    if json:
        print_json(comparison)
        return
    out.print(side_by_side(comparison["reports"]))
    out.print(comparison_table(comparison))
    first = comparison["groups"][0]["label"]
    for name, found in comparison["differences"].items():
        same = "the same answers, token for token" if not found else f"{len(found)} answers differ"
        out.print(f"{first} and {name}: {same}")
    if out_dir is not None:
        out.print(f"comparison: {out_dir / 'comparison.html'}", highlight=False)
