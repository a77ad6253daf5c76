"""Follows a change of a live cluster: a line when a step begins or ends."""

from __future__ import annotations

import time

import typer

from pdcache.changes.change import Change, ChangeState, StepState
from pdcache.cli.output import err, out, print_json
from pdcache.cluster.client import ClusterClient
from pdcache.errors import ClusterError

POLL_S = 0.3
LOST_LIMIT_S = 60.0
"""How long the controller may be away while it is being followed: Ray starts it again."""

_WORDS = {StepState.RUNNING: "...", StepState.DONE: "done", StepState.FAILED: "FAILED"}


def follow(client: ClusterClient, change_id: str, *, json: bool, wait: bool) -> None:
    """Tell the steps of a change, and wait for its end. Exit 1 when it failed.

    Ctrl-C ends the following, not the change.
    """
    told: dict[int, StepState] = {}
    try:
        change = _ask(client)
        while change is not None and change.id == change_id:
            _tell(change, told, quiet=json)
            if not wait or change.state is not ChangeState.RUNNING:
                break
            time.sleep(POLL_S)
            change = _ask(client)
    except KeyboardInterrupt:
        err.print("the change goes on; `pdcache change` shows how far it is.")
        raise
    finally:
        client.close()
    if change is None:
        raise ClusterError("the cluster knows of no change.")
    if json:
        print_json({"schema": 1, "change": change.as_json()})
    else:
        colour = "red" if change.is_open_failure else "green"
        out.print(f"[{colour}]{change.state.value}[/] {change.title}", highlight=False)
    if change.is_open_failure:
        if not json:
            out.print(f"  {change.reason}", highlight=False, markup=False, soft_wrap=True)
            out.print("  finish it: pdcache change --resume, or take it back: --rollback")
        raise typer.Exit(1)


def _ask(client: ClusterClient) -> Change | None:
    deadline = time.monotonic() + LOST_LIMIT_S
    while True:
        try:
            return client.status().change
        except ClusterError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def _tell(change: Change, told: dict[int, StepState], *, quiet: bool) -> None:
    for number, step in enumerate(change.steps):
        if step.state is StepState.TODO or told.get(number) is step.state:
            continue
        told[number] = step.state
        if not quiet:
            seconds = f" in {step.seconds:.1f} s" if step.state is not StepState.RUNNING else ""
            count = f"[{number + 1}/{len(change.steps)}]"
            err.print(
                f"{count:>8} {step} {_WORDS[step.state]}{seconds}", highlight=False, markup=False
            )
