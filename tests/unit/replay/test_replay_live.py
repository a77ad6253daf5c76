from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from pdcache.replay import (
    CachedTokens,
    LiveView,
    ReplayStarted,
    RequestError,
    RequestRecord,
    TurnDone,
    TurnSent,
)


def done(turn: int, error: RequestError | None = None) -> TurnDone:
    return TurnDone(
        RequestRecord(
            session="s1",
            turn=turn,
            prompt_tokens=100,
            output_ids=(1, 2),
            cached=CachedTokens(storage=48),
            ceiling_tokens=64,
            sent_s=0.0,
            send_lag_s=0.0,
            ttft_s=0.25,
            gaps_s=(0.125,),
            latency_s=0.375,
            error=error,
        ),
        not_sent=3 if error else 0,
        sent=error is None or error.kind != "before_turn",
    )


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_without_a_terminal_lines_are_occasional_and_one_is_last() -> None:
    out, clock = io.StringIO(), Clock()
    with LiveView(Console(file=out, width=80), line_every_s=10.0, clock=clock) as view:
        view(ReplayStarted(8))
        view(TurnSent("s1", 2))
        view(TurnSent("s2", 1))
        assert out.getvalue() == ""
        clock.now_s = 11.0
        view(done(2))
        view(done(2, RequestError("timeout", "late")))
    assert out.getvalue().splitlines() == [
        "1/8 requests done, 1 running, 0 failed; turn 2: TTFT p50 0.250 s, hit/ceiling 0.750",
        "1/8 requests done, 0 running, 1 failed (3 not sent); "
        "turn 2: TTFT p50 0.250 s, hit/ceiling 0.750",
    ]


def test_a_turn_that_was_never_sent_is_not_taken_off_the_running() -> None:
    out = io.StringIO()
    with LiveView(Console(file=out), clock=Clock()) as view:
        view(ReplayStarted(4))
        view(TurnSent("s1", 1))
        view(done(1, RequestError("before_turn", "flush refused")))
    assert "1 running, 1 failed" in out.getvalue()


def test_on_a_terminal_it_draws_a_table() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with LiveView(console, clock=Clock()) as view:
        view(ReplayStarted(1))
        view(TurnSent("s1", 1))
        view(done(1))
    assert "1/1 requests done" in out.getvalue()
    assert "125" in out.getvalue()


@pytest.mark.parametrize("module", ["torch", "ray", "transformers"])
def test_importing_the_package_does_not_import(module: str) -> None:
    program = f"import pdcache.replay, sys; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
