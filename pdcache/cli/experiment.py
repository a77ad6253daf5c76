"""``experiment``: several topologies under one load, in turns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pdcache.cli.interrupts import Interrupts
from pdcache.cli.options import Json, Set
from pdcache.cli.output import err, out, print_json
from pdcache.errors import ReplayError
from pdcache.experiments import load_experiment, run_experiment
from pdcache.reports.tables import comparison_table


def experiment_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Experiment in YAML.")],
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of the results; out/NAME if unset."),
    ] = None,
    sets: Set = None,
    json: Json = False,
) -> None:
    """Bring up each cell in turn, replay the same load on it, and compare them all.

    Run it again to go on after an interruption: what is done is not run again. Exit 1 when a cell
    failed; the others are compared nevertheless. --set is laid over the topology of every cell.

    Example: pdcache experiment examples/multi_turn/experiment.yaml
    """
    experiment = load_experiment(file).laying(sets or ())
    Interrupts()
    folder = out_dir if out_dir is not None else Path("out") / experiment.name
    outcome = run_experiment(
        experiment, folder, tell=lambda text: err.print(text, markup=False, highlight=False)
    )
    if json:
        failed = {name: vars(step) for name, step in outcome.failed.items()}
        print_json({"schema": 1, "comparison": outcome.comparison, "failed": failed})
    elif outcome.comparison is not None:
        out.print(comparison_table(outcome.comparison))
        out.print(f"comparison: {folder / 'comparison.html'}", highlight=False)
    if outcome.failed:
        name, step = next(iter(outcome.failed.items()))
        raise ReplayError(
            f"{len(outcome.failed)} of the steps failed; the first: {step.error}.",
            where=name,
            remedy=f"See {folder / step.log}; the same command tries them again.",
            log_tail=step.log_tail,
        )
