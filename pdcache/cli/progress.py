"""Progress of ``up`` on the terminal: a line when something has changed, never silence."""

from __future__ import annotations

import time

from rich.markup import escape
from rich.status import Status

from pdcache.cli.output import err
from pdcache.cluster.states import ClusterStatus, ProcessState
from pdcache.proof import Canary

_STEPS = {
    "check": "checking the topology",
    "ray": "starting Ray",
    "proof": "proving reuse",
}
QUIET_S = 15.0


class UpProgress:
    """Says each step, each process that becomes healthy, and what is waited for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin = time.monotonic()
        self._seen: dict[str, ProcessState] = {}
        self._spoke = time.monotonic()
        self._spinner: Status | None = None

    def step(self, key: str) -> None:
        """A new part of the work begins."""
        self.note(_STEPS[key])
        self._spin(_STEPS[key])

    def note(self, text: str) -> None:
        """One line."""
        self._spoke = time.monotonic()
        elapsed = time.monotonic() - self._begin
        err.print(f"[dim]{elapsed:6.1f}s[/] {escape(text)}", highlight=False, soft_wrap=True)

    def status(self, status: ClusterStatus) -> None:
        """Tell what has changed since the last status."""
        for own in status.workers:
            if own.state is self._seen.get(own.name):
                continue
            self._seen[own.name] = own.state
            if own.state is ProcessState.STARTING:
                self.note(f"{own.name} starting")
            elif own.state is ProcessState.HEALTHY:
                self.note(f"{own.name} healthy after {own.started_in_s:.1f} s")
            elif own.state is ProcessState.DEAD:
                self.note(f"{own.name} died: {own.reason}")
        waiting = [own.name for own in status.workers if own.state is ProcessState.STARTING]
        text = f"waiting for {', '.join(waiting) or 'the gateway to take all workers'}"
        self._spin(text)
        if time.monotonic() - self._spoke > QUIET_S:
            self.note(text)

    def canary(self, canary: Canary) -> None:
        """Tell the result of a canary."""
        verdict = "proved" if canary.proved else "FAILED"
        self.note(f"{verdict}: {canary.name} ({canary.hop}): {canary.evidence}")

    def stop(self) -> None:
        """End the spinner."""
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None

    def _spin(self, text: str) -> None:
        if not err.is_terminal:
            return
        if self._spinner is None:
            self._spinner = err.status(text)
            self._spinner.start()
        self._spinner.update(escape(text))
