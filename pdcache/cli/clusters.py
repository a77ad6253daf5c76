"""``status``, ``logs`` and ``down``."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer
from rich.table import Table

from pdcache.changes.change import ChangeState
from pdcache.cli.options import ClusterName, Json
from pdcache.cli.output import err, out, print_json
from pdcache.cluster.record import all_records, cluster_folder, log_file, the_record
from pdcache.cluster.states import ClusterState, ClusterStatus, ProcessState
from pdcache.cluster.supervised import tail
from pdcache.errors import ClusterError

_COLOURS = {
    ClusterState.UP: "green", ClusterState.DEGRADED: "yellow", ClusterState.STARTING: "cyan",
    ClusterState.FAILED: "red", ClusterState.DOWN: "dim",
}  # fmt: skip


def status_command(name: ClusterName = None, json: Json = False) -> None:
    """Show how a cluster is doing, process by process.

    Example: pdcache status full-offload --json
    """
    from pdcache.cluster.client import status_of

    records = [the_record(name)] if name is not None or json else all_records()
    if not records:
        out.print("no cluster is up.")
        return
    for record in records:
        status = status_of(record)
        if json:
            print_json(status.as_json())
        else:
            _print(status)


def _print(status: ClusterStatus) -> None:
    colour = _COLOURS[status.state]
    out.print(f"[bold]{status.name}[/] [{colour}]{status.state.value}[/] {status.endpoint or ''}")
    for reason in status.reasons:
        out.print(f"  {reason}", highlight=False, markup=False)
    if status.change is not None and status.change.state is ChangeState.RUNNING:
        out.print(f"  {status.change.verdict()}", highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("  process", "role", "state", "url", "pid", "incarnation", "restarts"):
        table.add_column(column)
    for own in status.workers:
        table.add_row(
            f"  {own.name}", own.role, f"{own.state.value}{' (held)' if own.held else ''}",
            own.url or "", str(own.pid or ""),
            str(own.incarnation), str(own.restarts),
        )  # fmt: skip
    if status.workers:
        out.print(table)
    for own in status.workers:
        if own.log_tail and own.state is ProcessState.DEAD:
            out.print(f"  end of the log of {own.name}:", highlight=False, markup=False)
            for line in own.log_tail.splitlines():
                out.print(f"    {line}", highlight=False, markup=False, style="dim")


def logs_command(
    name: Annotated[str, typer.Argument(help="Cluster, up or down.")],
    worker: Annotated[
        str | None, typer.Argument(metavar="[WORKER]", help="Process; all when left out.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as it grows.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, help="Last lines to show.")] = 50,
) -> None:
    """Show the logs of a cluster's processes on this machine.

    Example: pdcache logs full-offload prefill-0 -f
    """
    folder = cluster_folder(name) / "logs"
    known = sorted(path.stem for path in folder.glob("*.log"))
    if not known:
        raise ClusterError(f"there are no logs of a cluster named {name!r}.", where=str(folder))
    if worker is not None and worker not in known:
        raise ClusterError(
            f"no process {worker!r} has a log here.", remedy=f"Processes: {', '.join(known)}."
        )
    shown = [worker] if worker else [stem for stem in known if not stem.endswith(".previous")]
    for stem in shown:
        for line in tail(log_file(name, stem), lines).splitlines():
            sys.stdout.write(line + "\n" if worker else f"{stem:16s} | {line}\n")
    if follow:
        _follow(name, shown, prefix=worker is None)


def _follow(name: str, stems: list[str], *, prefix: bool) -> None:
    offsets = {stem: log_file(name, stem).stat().st_size for stem in stems}
    while True:
        for stem in stems:
            path = log_file(name, stem)
            size = path.stat().st_size if path.exists() else 0
            if size < offsets[stem]:
                offsets[stem] = 0
            if size > offsets[stem]:
                with open(path, "rb") as file:
                    file.seek(offsets[stem])
                    data = file.read(size - offsets[stem])
                offsets[stem] = size
                for line in data.decode("utf-8", "replace").splitlines():
                    sys.stdout.write(f"{stem:16s} | {line}\n" if prefix else line + "\n")
        sys.stdout.flush()
        time.sleep(0.3)


def down_command(
    name: ClusterName = None,
    all_: Annotated[bool, typer.Option("--all", help="Every cluster.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Forget it even if its Ray cluster is gone.")
    ] = False,
    json: Json = False,
) -> None:
    """End a cluster: no process, port, Ray actor or shared memory of it stays.

    A cluster that is down already is fine.

    Example: pdcache down full-offload
    """
    from pdcache.cluster.bring_down import bring_down

    records = all_records()
    if name is not None:
        records = [record for record in records if record.name == name]
    elif not all_ and len(records) > 1:
        records = [the_record(None)]
    ended, left = [], {}
    for record in records:
        err.print(f"ending {record.name} ...")
        stuck = bring_down(record, force=force)
        ended.append(record.name)
        if stuck:
            left[record.name] = stuck
    if json:
        print_json({"schema": 1, "ended": ended, "left": left})
    elif not ended:
        out.print(
            f"{name or 'nothing'} is up: nothing to end."
            if name is None
            else f"{name} is not up: nothing to end."
        )
    else:
        out.print(f"down: {', '.join(ended)}")
    if left:
        raise ClusterError(
            f"some processes would not end: {left}.",
            remedy="They are held by the kernel or belong to another user; see `ps`.",
        )
