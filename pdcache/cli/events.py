"""``events``: what happened on a cluster, when, and what was done."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.markup import escape

from pdcache.cli.options import Json
from pdcache.cli.output import out, print_json
from pdcache.cluster.events import SHOWN, Event, read_events
from pdcache.cluster.record import cluster_folder
from pdcache.errors import ClusterError

POLL_S = 0.5


def events_command(
    name: Annotated[str, typer.Argument(help="Cluster, up or down.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as they come.")] = False,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=1, max=SHOWN, help="Last events to show.")
    ] = 50,
    json: Json = False,
) -> None:
    """Show what happened on a cluster: deaths, restarts, lost KV, changes, and what was done.

    Example: pdcache events full-offload -f
    """
    path = cluster_folder(name) / "logs" / "events.jsonl"
    if not path.exists():
        raise ClusterError(f"there are no events of a cluster named {name!r}.", where=str(path))
    events = list(read_events(path))
    if json:
        print_json({"schema": 1, "events": [event.as_json() for event in events[-lines:]]})
        return
    for event in events[-lines:]:
        _print(event)
    while follow:
        time.sleep(POLL_S)
        known = events[-1].number if events else 0
        events = list(read_events(path))
        for event in events:
            if event.number > known:
                _print(event)


def _print(event: Event) -> None:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at_s))
    did = f" -> {event.did}" if event.did else ""
    out.print(
        f"[dim]{at}[/] {event.subject:14s} {event.kind:10s} {escape(event.text + did)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
