"""The ``pdcache`` command: parse, call, print; no traceback reaches a user."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from pdcache import __version__
from pdcache.cli import (
    changes,
    clusters,
    describe,
    doctor,
    events,
    experiment,
    plan,
    replay,
    reports,
    storage,
    trace,
    up,
    verify,
)
from pdcache.cli.output import fail
from pdcache.errors import PdcacheError
from pdcache.topology.facts import pdcache_home

app = typer.Typer(
    name="pdcache",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="SGLang prefill/decode disaggregation with HiCache on Ray, "
    "proved to reuse KV before it says UP.",
    epilog="Start here: [bold]pdcache up topologies/full_offload.yaml[/]",
)
app.command("check")(describe.check_command)
app.command("plan")(plan.plan_command)
app.command("up")(up.up_command)
app.command("status")(clusters.status_command)
app.command("logs")(clusters.logs_command)
app.command("verify")(verify.verify_command)
app.command("down")(clusters.down_command)
app.command("events")(events.events_command)
app.command("apply")(changes.apply_command)
app.command("scale")(changes.scale_command)
app.command("drain")(changes.drain_command)
app.command("restart")(changes.restart_command)
app.command("change")(changes.change_command)
app.add_typer(storage.app, name="storage")
app.command("replay")(replay.replay_command)
app.command("report")(reports.report_command)
app.command("compare")(reports.compare_command)
app.command("experiment")(experiment.experiment_command)
app.add_typer(trace.app, name="trace")
app.command("explain")(describe.explain_command)
app.command("schema")(describe.schema_command)
app.command("doctor")(doctor.doctor_command)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"pdcache {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; exit 0 done, 1 the input or the cluster is at fault, 2 usage."""
    try:
        app()
    except PdcacheError as error:
        fail(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        report = pdcache_home() / "last_error.txt"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(traceback.format_exc())
        fail(
            PdcacheError(
                f"a defect of pdcache: {type(error).__name__}: {error}.",
                remedy=f"Please report it with {report}.",
            )
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
