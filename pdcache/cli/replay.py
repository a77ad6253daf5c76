"""``replay``: multi-turn load, and where its tokens came from."""

from __future__ import annotations

import asyncio
import json as js
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pdcache.cli.options import Json, SloOption
from pdcache.cli.output import err, out, print_json
from pdcache.cluster.record import the_record
from pdcache.errors import ReplayError
from pdcache.replay import (
    LiveView,
    Options,
    ReplaySummary,
    Target,
    cluster_target,
    launch,
    recorded_options,
    server_target,
)
from pdcache.replay.journal import read_environment
from pdcache.reports import Slo, turn_table, write_report

_KEPT = ("dialect", "concurrency", "arrivals", "time_scale", "seed", "warmup", "reuse", "salt",
         "flush", "body", "mode", "page_size", "served_name", "out_dir")  # fmt: skip


def replay_command(
    ctx: typer.Context,
    workload: Annotated[
        Path | None, typer.Argument(metavar="SPEC", help="Sessions, a JSON line each.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="Cluster name or http://host:port; the only cluster if unset."
        ),
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of the run; out/replay-TIME if unset."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="DIR", help="Go on with the run in this folder."),
    ] = None,
    dialect: Annotated[
        str, typer.Option("--dialect", help="sglang, openai-chat or openai-completions.")
    ] = "sglang",
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, help="Sessions at a time, in a closed loop.")
    ] = 2,
    arrivals: Annotated[
        str | None,
        typer.Option(
            "--arrivals",
            metavar="HOW",
            help="Open loop: trace (by start_s), poisson:RATE or constant:RATE, sessions a second.",
        ),
    ] = None,
    time_scale: Annotated[
        float,
        typer.Option("--time-scale", help="Stretch starts and think times; 0.5 is twice as fast."),
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Of random arrivals.")] = 0,
    warmup: Annotated[
        str,
        typer.Option("--warmup", metavar="N|Ns", help="Requests, or seconds as 30s, not measured."),
    ] = "0",
    sample: Annotated[
        str, typer.Option("--sample", metavar="Ns", help="Pause between samples of all workers.")
    ] = "2s",
    reuse: Annotated[
        bool,
        typer.Option("--reuse/--no-reuse", help="Whether requests may reuse each other's KV."),
    ] = True,
    salt: Annotated[
        str | None,
        typer.Option("--salt", help="Reuse only what requests with this salt left in the caches."),
    ] = None,
    flush: Annotated[
        bool,
        typer.Option("--flush", help="Empty L1 and L2 of all prefill workers before every turn."),
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", help="Seconds a request may take.")
    ] = 600.0,
    body: Annotated[
        list[str] | None,
        typer.Option(
            "--body", metavar="KEY=JSON", help="A key of every body; null removes one. Repeatable."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model of a target given by URL.")
    ] = None,
    mode: Annotated[
        str, typer.Option("--mode", help="Ceiling for a URL: prefill_only or full_offload.")
    ] = "full_offload",
    page_size: Annotated[
        int, typer.Option("--page-size", min=1, help="Page size of a target given by URL.")
    ] = 64,
    served_name: Annotated[
        str | None,
        typer.Option(
            "--served-name", help="Name the target serves the model by; --model if unset."
        ),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", help="File with the key that a target given by URL wants."),
    ] = None,
    slo: SloOption = None,
    json: Json = False,
) -> None:
    """Replay multi-turn sessions, and show by turn and tier what was reused of what could be.

    The folder is written as the replay goes; an interrupted one goes on with --resume DIR.
    Exit 1 when a request failed, 130 when interrupted.

    Example: pdcache replay examples/multi_turn/sessions.jsonl --target full-offload --out out/run1
    """
    if resume is not None:
        folder = resume
        _refuse_options(ctx)
        options = recorded_options(resume)
        options = replace(options, workload=workload or options.workload)
        run = read_environment(resume)
        target, mode, page_size = target or run["spec"]["target"], run["mode"], run["page_size"]
        model, served_name = model or run["spec"]["model_path"], run["spec"]["model"]
    else:
        folder = out_dir or Path("out") / time.strftime("replay-%Y%m%d-%H%M%S")
        if workload is None:
            raise ReplayError("there is no workload.", where="SPEC",
                              remedy="Give a JSONL file of sessions, or --resume DIR.")  # fmt: skip
        options = Options(
            workload, dialect, concurrency, arrivals, time_scale, seed, warmup, reuse, salt, flush,
            body=dict(_key(text) for text in body or ()),
        )  # fmt: skip
        if arrivals is not None and _given(ctx, "concurrency"):
            raise ReplayError(
                "an open loop has no concurrency.", where="--concurrency",
                remedy="Leave it out, or leave out --arrivals.",
            )  # fmt: skip
    options = replace(options, timeout_s=timeout, sample_s=_seconds(sample))
    where = _target(target, model, mode, page_size, served_name, key_file)
    with LiveView(err) as view:
        summary = asyncio.run(_interruptible(options, where, folder, resume is not None, view))
    report = write_report(folder, Slo.parse(slo) if slo else None)
    if json:
        print_json(report)
    else:
        out.print(turn_table(report))
        out.print(f"report: {folder}", highlight=False)
    _raise_failure(summary, folder)


async def _interruptible(
    options: Options, target: Target, folder: Path, resume: bool, view: LiveView
) -> ReplaySummary:
    """The replay, ended in an orderly way by SIGINT and SIGTERM.

    Raises:
        KeyboardInterrupt: such a signal came; all files are whole.
    """
    running = asyncio.ensure_future(launch(options, target, folder, resume=resume, on_event=view))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        err.print(f"interrupted; go on with: pdcache replay --resume {folder}", highlight=False)
        raise KeyboardInterrupt from None


def _raise_failure(summary: ReplaySummary, folder: Path) -> None:
    first = summary.first_error
    where = f"session {first.session}, turn {first.turn}" if first is not None else str(folder)
    remedy = f"See the workers' logs (pdcache logs NAME); send what is left again with: \
pdcache replay --resume {folder}"
    if summary.gave_up is not None:
        raise ReplayError(
            f"{summary.gave_up.rstrip('.')}; {summary.completed} of {summary.planned} requests "
            "are done.",
            where=where,
            remedy=remedy,
        )
    if first is not None:
        raise ReplayError(
            f"{summary.failed} of {summary.planned} requests failed; the first: {first.error}.",
            where=where,
            remedy=remedy,
        )


def _refuse_options(ctx: typer.Context) -> None:
    """Options that belong to the run, and are in its folder."""
    for name in _KEPT:
        if _given(ctx, name):
            option = "--out" if name == "out_dir" else f"--{name.replace('_', '-')}"
            raise ReplayError(
                "a run goes on with the options it was begun with.", where=option,
                remedy="Leave it out beside --resume.",
            )  # fmt: skip


def _given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _key(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        if name and equals:
            return name, js.loads(value)
    except ValueError:
        pass
    raise ReplayError(
        f"{text!r} is no key of a body.", where="--body", remedy="Give KEY=JSON, as top_k=1."
    )


def _seconds(text: str) -> float:
    try:
        value = float(text.removesuffix("s"))
        if 0.05 <= value < 1e6:
            return value
    except ValueError:
        pass
    raise ReplayError(
        f"{text!r} is no pause.", where="--sample", remedy="Give seconds, 0.05 or more, as 2s."
    )


def _target(
    target: str | None,
    model: str | None,
    mode: str,
    page_size: int,
    served_name: str | None,
    key_file: Path | None,
) -> Target:
    if target is None or "://" not in target:
        return cluster_target(the_record(target))
    try:
        key = key_file.read_text().strip() if key_file is not None else None
    except (OSError, UnicodeDecodeError) as error:
        raise ReplayError(f"cannot read the key: {error}", where="--key-file") from None
    return server_target(
        target, model, mode=mode, page_size=page_size, served_name=served_name, key=key
    )
