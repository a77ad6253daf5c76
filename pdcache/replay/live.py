"""A replay's progress on the terminal, or as plain lines where there is none."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pdcache.replay.numbers import milliseconds, percentile, ratio, seconds
from pdcache.replay.records import RequestRecord
from pdcache.replay.spec import ReplayEvent, ReplayStarted, TurnDone, TurnSent

_REDRAW_S = 0.25


class LiveView:
    """A context manager to give to `run_replay` as `on_event`.

    On a terminal it redraws a table, at most four times a second; elsewhere it prints a line
    at most every `line_every_s` seconds, and one at the end.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        line_every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
        self._every_s = _REDRAW_S if self._live else line_every_s
        self._shown_at_s = clock()
        self._planned = self._running = self._errors = self._not_sent = 0
        self._done: dict[int, list[RequestRecord]] = defaultdict(list)

    def __enter__(self) -> LiveView:
        self._shown_at_s = self._clock()
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._show()
        if self._live:
            self._live.__exit__(kind, error, trace)

    def __call__(self, event: ReplayEvent) -> None:
        """Take an event of the replay."""
        match event:
            case ReplayStarted(requests):
                self._planned = requests
            case TurnSent():
                self._running += 1
            case TurnDone(record, not_sent):
                if record.error is None or record.error.kind != "before_turn":
                    self._running -= 1
                self._not_sent += not_sent
                if record.error:
                    self._errors += 1
                else:
                    self._done[record.turn].append(record)
        if self._clock() - self._shown_at_s >= self._every_s:
            self._show()

    def _show(self) -> None:
        self._shown_at_s = self._clock()
        if self._live:
            self._live.update(Group(Text(self._counts()), self._table()), refresh=True)
        else:
            self._console.print(self._line(), soft_wrap=True, highlight=False)

    def _counts(self) -> str:
        done = sum(len(records) for records in self._done.values())
        counts = f"{done}/{self._planned} requests done, {self._running} running"
        counts += f", {self._errors} failed"
        return counts + (f" ({self._not_sent} not sent)" if self._not_sent else "")

    def _line(self) -> str:
        turns = [
            f"turn {turn}: TTFT p50 {ttft} s, hit/ceiling {hit}"
            for turn, _, ttft, _, hit in self._stats()
        ]
        return "; ".join([self._counts(), *turns])

    def _table(self) -> Table:
        table = Table()
        for name in ("turn", "done", "TTFT p50 s", "TPOT p50 ms", "hit/ceiling"):
            table.add_column(name, justify="right")
        for row in self._stats():
            table.add_row(*row)
        return table

    def _stats(self) -> list[tuple[str, str, str, str, str]]:
        rows = []
        for turn, records in sorted(self._done.items()):
            ceiling = sum(record.ceiling_tokens for record in records)
            hit = sum(record.cached.total for record in records)
            ttfts = [record.ttft_s for record in records if record.ttft_s is not None]
            tpots = [record.tpot_s for record in records if record.tpot_s is not None]
            rows.append(
                (
                    str(turn),
                    str(len(records)),
                    seconds(percentile(ttfts, 0.5)),
                    milliseconds(percentile(tpots, 0.5)),
                    ratio(hit / ceiling if ceiling else None),
                )
            )
        return rows
