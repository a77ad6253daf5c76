"""``trace``: what is in a trace, and workloads made of it."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pdcache.cli import trace_synth
from pdcache.cli.options import Json
from pdcache.cli.output import err, out, print_json
from pdcache.cli.trace_files import Out, write_lines, write_sessions
from pdcache.errors import ReplayError
from pdcache.models import resolve_model
from pdcache.replay import ChatTokenizer
from pdcache.traces.cut import slice_trace
from pdcache.traces.distributions import Distribution, parse_arrivals
from pdcache.traces.formats import FORMATS
from pdcache.traces.importing import import_sessions
from pdcache.traces.picture import ceiling_lines, counts_table, curve_table
from pdcache.traces.problems import Problems
from pdcache.traces.stats import CAPACITIES, trace_stats
from pdcache.traces.times import with_times
from pdcache.traces.trace import Trace
from pdcache.traces.workload import nothing_read, workload_of

app = typer.Typer(
    no_args_is_help=True, help="Traces: what is in them, and sessions made of them or of a seed."
)
app.add_typer(trace_synth.app, name="synth")

File = Annotated[Path, typer.Argument(metavar="FILE", help="Trace; its format is detected.")]
FormatName = Annotated[
    str | None, typer.Option("--format", help=f"One of {', '.join(FORMATS)}, if not detected.")
]
BlockSize = Annotated[
    int | None, typer.Option("--block-size", min=1, help="Tokens a block of the trace.")
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Requests or dialogues to take at most.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first malformed line.")]


@app.command("stats")
def stats_command(
    file: File,
    page_size: Annotated[
        int | None,
        typer.Option("--page-size", min=1, help="Show the ceiling in pages of this many tokens."),
    ] = None,
    capacity: Annotated[
        str, typer.Option("--capacity", help="Sizes of caches in blocks, with commas between.")
    ] = ",".join(map(str, CAPACITIES)),
    model: Annotated[
        str | None, typer.Option("--model", help="Model whose tokenizer counts tokens of texts.")
    ] = None,
    format_name: FormatName = None,
    block_size: BlockSize = None,
    limit: Limit = None,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Show what is in a trace: lengths, what an unlimited cache could serve, and caches of a size.

    Malformed lines are told and left out.

    Example: pdcache trace stats conversation_trace.jsonl --capacity 1000,10000,30000
    """
    trace, problems = Trace(file, format_name, block_size), Problems(strict=strict)
    tokenizer = ChatTokenizer.from_folder(resolve_model(model)) if model is not None else None
    workload = workload_of(trace, problems, tokenizer, page_size)
    stats = trace_stats(
        islice(workload.requests, limit), workload.block_size, _capacities(capacity), page_size
    )
    if not stats.requests:
        raise nothing_read(trace, problems)
    if json:
        malformed = {"lines": problems.lines, "first": [str(error) for error in problems.first]}
        print_json({**stats.as_json(), "format": trace.name, "malformed": malformed})
        return
    out.print(counts_table(stats))
    if stats.ceiling_blocks is not None:
        out.print(curve_table(stats))
        for line in ceiling_lines(stats):
            out.print(line, highlight=False)
    elif workload.block_size is None:
        out.print("Prompts are texts: --model NAME counts their tokens and what could be reused.")
    else:
        out.print("The trace does not tell contents, so there is nothing to reuse in it.")
    _tell(problems)


@app.command("import")
def import_command(
    file: File,
    out_file: Out,
    limit: Limit = None,
    arrivals: Annotated[
        str | None,
        typer.Option("--arrivals", help="Starts of dialogues without times: poisson:rate=2."),
    ] = None,
    think: Annotated[
        str | None,
        typer.Option("--think", help="Pauses in dialogues without times, in seconds."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Other seeds draw other times.")] = 0,
    format_name: FormatName = None,
    block_size: BlockSize = None,
    strict: Strict = False,
) -> None:
    """Write a trace as sessions, which `pdcache replay` takes.

    Malformed lines are told and left out.

    Example: pdcache trace import conversation_trace.jsonl --limit 500 --out sessions.jsonl
    """
    trace, problems = Trace(file, format_name, block_size), Problems(strict=strict)
    sessions = import_sessions(trace, problems, limit)
    if arrivals is not None or think is not None:
        if trace.name not in ("sharegpt", "messages"):
            raise ReplayError(
                f"a trace of the format {trace.name} tells its own times.",
                where="--arrivals, --think",
                remedy="Leave them out.",
            )
        between = parse_arrivals(arrivals or "0", "--arrivals")
        pause = Distribution.parse(think or "0", "--think")
        sessions = with_times(sessions, between, pause, seed)
    first = next(sessions, None)
    if first is None:
        raise nothing_read(trace, problems)
    write_sessions(out_file, chain([first], sessions))
    _tell(problems)


@app.command("slice")
def slice_command(
    file: File,
    out_file: Out,
    from_s: Annotated[
        float, typer.Option("--from", metavar="S", min=0, help="Seconds from the first request.")
    ] = 0.0,
    to_s: Annotated[
        float | None, typer.Option("--to", metavar="S", help="The same; not included.")
    ] = None,
    limit: Limit = None,
    format_name: FormatName = None,
    block_size: BlockSize = None,
    strict: Strict = False,
) -> None:
    """Write a part of a trace in its own format.

    Example: pdcache trace slice conversation_trace.jsonl --from 600 --to 1200 --out part.jsonl
    """
    trace, problems = Trace(file, format_name, block_size), Problems(strict=strict)
    end_s = float("inf") if to_s is None else to_s
    lines = write_lines(out_file, slice_trace(trace, problems, from_s, end_s, limit))
    out.print(f"{lines} lines: {out_file}", highlight=False)
    _tell(problems)


def _capacities(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ReplayError(
            f"{text!r} are no whole numbers.",
            where="--capacity",
            remedy="Write as 1000,10000,30000.",
        ) from None


def _tell(problems: Problems) -> None:
    if not problems.lines:
        return
    err.print(f"[yellow]{problems.lines} malformed lines were left out[/], the first of them:")
    for error in problems.first:
        err.print(escape(f"  {error}"), highlight=False, soft_wrap=True)
