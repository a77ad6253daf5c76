"""A replay's progress on the terminal, or as plain lines where there is none."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pdcache.replay.numbers import milliseconds, percentile, ratio, seconds
from pdcache.replay.records import RequestRecord
from pdcache.replay.spec import ReplayEvent, ReplayStarted, TurnDone, TurnSent

_REDRAW_S = 0.25
_SHOWN_REQUESTS = 512


def _newest() -> deque[float]:
    return deque(maxlen=_SHOWN_REQUESTS)


@dataclass
class _Turn:
    """What is shown of one turn: counts of all its requests, times of the newest."""

    done: int = 0
    hit: int = 0
    ceiling: int = 0
    ttfts_s: deque[float] = field(default_factory=_newest)
    tpots_s: deque[float] = field(default_factory=_newest)

    def add(self, record: RequestRecord) -> None:
        self.done += 1
        self.hit += record.cached.total
        self.ceiling += record.ceiling_tokens
        if record.ttft_s is not None:
            self.ttfts_s.append(record.ttft_s)
        if record.tpot_s is not None:
            self.tpots_s.append(record.tpot_s)


class LiveView:
    """A context manager to give to `run_replay` as `on_event`.

    On a terminal it redraws a table, at most four times a second; elsewhere it prints a line
    at most every `line_every_s` seconds, and one at the end. Medians are those of the newest 512
    requests of a turn.
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
        self._planned = self._before = self._running = self._errors = self._not_sent = 0
        self._turns: dict[int, _Turn] = defaultdict(_Turn)

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
            case ReplayStarted(requests, done):
                self._planned, self._before = requests, done
            case TurnSent():
                self._running += 1
            case TurnDone(record, not_sent, sent):
                self._running -= sent
                self._not_sent += not_sent
                if record.error:
                    self._errors += 1
                else:
                    self._turns[record.turn].add(record)
        if self._clock() - self._shown_at_s >= self._every_s:
            self._show()

    def _show(self) -> None:
        self._shown_at_s = self._clock()
        if self._live:
            self._live.update(Group(Text(self._counts()), self._table()), refresh=True)
        else:
            self._console.print(self._line(), soft_wrap=True, highlight=False)

    def _counts(self) -> str:
        done = self._before + sum(turn.done for turn in self._turns.values())
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
        return [
            (
                str(number),
                str(turn.done),
                seconds(percentile(turn.ttfts_s, 0.5)),
                milliseconds(percentile(turn.tpots_s, 0.5)),
                ratio(turn.hit / turn.ceiling if turn.ceiling else None),
            )
            for number, turn in sorted(self._turns.items())
        ]
