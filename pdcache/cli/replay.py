"""``replay``: multi-turn load, and where its tokens came from."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import typer

from pdcache.cli.options import Json
from pdcache.cli.output import err, out, print_json
from pdcache.cluster.record import the_record
from pdcache.errors import ReplayError
from pdcache.models import resolve_model
from pdcache.replay import (
    CacheMode,
    ChatTokenizer,
    LiveView,
    ReplaySpec,
    load_sessions,
    run_replay,
)
from pdcache.reports import RunFolder, build_report, turn_table


@dataclass(frozen=True)
class _Target:
    url: str
    model: str
    mode: CacheMode
    page_size: int
    served_name: str
    headers: Mapping[str, str]


def replay_command(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="Sessions, a JSON line each.")],
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="Cluster name or http://host:port; the only cluster if unset."
        ),
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the report here.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, help="Sessions at a time.")
    ] = 2,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", help="Seconds a request may take.")
    ] = 600.0,
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
    json: Json = False,
) -> None:
    """Replay multi-turn sessions, and show by turn and tier what was reused of what could be.

    Exit 1 when a request failed.

    Example: pdcache replay examples/multi_turn/sessions.jsonl --target full-offload --out out/run1
    """
    sessions = load_sessions(spec)
    where = _target(target, model, mode, page_size, served_name, key_file)
    replay = ReplaySpec(
        sessions,
        ChatTokenizer.from_folder(resolve_model(where.model)),
        page_size=where.page_size,
        mode=where.mode,
        concurrency=concurrency,
        timeout_s=timeout,
        extra_body={"model": where.served_name},
        headers=where.headers,
    )
    with LiveView(err) as view:
        result = asyncio.run(run_replay(replay, where.url, on_event=view))
    report = build_report(RunFolder.of_result(result))
    if json:
        print_json(report)
    else:
        out.print(turn_table(report))
        if out_dir is not None:
            out.print(f"report: {out_dir}", highlight=False)
    if result.failed:
        first = result.failed[0]
        raise ReplayError(
            f"{len(result.failed)} of {result.requests_planned} requests failed; the first: "
            f"{first.error}.",
            where=f"session {first.session}, turn {first.turn}",
            remedy="See the workers' logs: pdcache logs NAME",
        )


def _target(
    target: str | None,
    model: str | None,
    mode: str,
    page_size: int,
    served_name: str | None,
    key_file: Path | None,
) -> _Target:
    if target is None or "://" not in target:
        record = the_record(target)
        from pdcache.cluster.client import ClusterClient

        client = ClusterClient(record)
        own = client.desired()
        client.close()
        plan, shape = own.plan, own.plan.formats["prefill"]
        return _Target(
            plan.endpoint, plan.model_path, plan.mode.value, shape.page_size, shape.served_name,
            own.keys.headers(),
        )  # fmt: skip
    if model is None:
        raise ReplayError(
            "a target given by URL needs its model, whose tokenizer makes the prompts.",
            where="--model",
            remedy="Give a built-in name, a folder, or a hub id on this machine.",
        )
    if mode not in ("prefill_only", "full_offload"):
        raise ReplayError(
            f"there is no mode {mode!r}.",
            where="--mode",
            remedy="Give prefill_only or full_offload.",
        )
    try:
        key = key_file.read_text().strip() if key_file is not None else None
    except (OSError, UnicodeDecodeError) as error:
        raise ReplayError(f"cannot read the key: {error}", where="--key-file") from None
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    name = served_name or model
    return _Target(target, model, cast(CacheMode, mode), page_size, name, headers)
