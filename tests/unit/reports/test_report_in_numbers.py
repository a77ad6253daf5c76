from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table

from pdcache.replay import CachedTokens, ReplayResult, RequestError, RequestRecord
from pdcache.replay.numbers import percentile
from pdcache.reports import Difference, Report, RunFolder, Slo, compare_outputs
from pdcache.reports import build_report as report_of_run
from pdcache.reports.tables import side_by_side, turn_table


def record(session: str, turn: int, **values: object) -> RequestRecord:
    base = RequestRecord(
        session=session,
        turn=turn,
        prompt_tokens=100 * turn,
        output_ids=(1, 2, 3),
        cached=CachedTokens(),
        ceiling_tokens=0,
        sent_s=0.0,
        send_lag_s=0.001,
        ttft_s=1.0,
        gaps_s=(0.1, 0.3),
        latency_s=1.4,
    )
    return replace(base, **values)  # type: ignore[arg-type]


RESULT = ReplayResult(
    target="http://127.0.0.1:8000",
    mode="full_offload",
    page_size=16,
    requests_planned=6,
    wall_s=10.0,
    records=(
        record("s1", 1),
        record("s2", 1, ttft_s=3.0),
        record("s1", 2, cached=CachedTokens(32, 16, 48), ceiling_tokens=128, ttft_s=0.5),
        record("s2", 2, cached=CachedTokens(144), ceiling_tokens=128, gaps_s=(0.4, 0.4)),
        record("s1", 3, error=RequestError("http_503", "gone"), ttft_s=None, ceiling_tokens=999),
    ),
)


def build_report(result: ReplayResult, slo: Slo | None = None) -> Report:
    return report_of_run(RunFolder.of_result(result), slo)


def rows_of(table: Table) -> list[str]:
    """The rows that a reader sees on a terminal of 80 columns, without the header."""
    out = io.StringIO()
    Console(width=80, file=out).print(table)
    _, _, body = out.getvalue().rpartition("─")
    return [" ".join(line.split()) for line in body.splitlines() if line.strip()]


def test_a_turn_has_the_keys_of_the_contract() -> None:
    turn = build_report(RESULT)["turns"][1]
    assert turn["turn"] == 2
    assert turn["requests"] == 2
    assert turn["prompt_tokens"] == 400
    assert turn["cached_tokens"] == {"device": 176, "host": 16, "storage": 48}
    assert turn["ceiling_tokens"] == 256
    assert turn["hit_over_ceiling"] == 240 / 256
    assert turn["ttft_s"] == pytest.approx({"p50": 0.75, "p95": 0.975, "p99": 0.995})
    assert turn["tpot_s"] == pytest.approx({"p50": 0.3, "p95": 0.39, "p99": 0.398})
    assert turn["itl_s"]["p50"] == pytest.approx(0.35)


def test_the_report_counts_errors_goodput_and_losses() -> None:
    report = build_report(RESULT)
    assert report["schema"] == 1
    assert report["errors"] == 1
    assert report["error_kinds"] == {"http_503": 1}
    assert report["requests"] == {"planned": 6, "completed": 4, "failed": 1, "warmup": 0}
    assert report["goodput"] == {"requests_per_s": 0.4, "output_tokens_per_s": 1.2}
    assert {name: tokens for name, tokens in report["losses"].items() if tokens} == {
        "offered_tokens": 256, "exact_tokens": 256, "full_ceiling_tokens": 256,
        "ceiling_tokens": 256, "served_tokens": 224, "unexplained_tokens": 32,
        "over_ceiling_tokens": 16,
    }  # fmt: skip


def test_without_a_ceiling_there_is_no_ratio() -> None:
    assert build_report(RESULT)["turns"][0]["hit_over_ceiling"] is None


def test_a_ratio_above_one_is_reported_as_it_is() -> None:
    over = record("s1", 2, cached=CachedTokens(144), ceiling_tokens=128)
    report = build_report(replace(RESULT, records=(over,)))
    assert report["turns"][0]["hit_over_ceiling"] == 1.125


def test_the_total_is_of_the_turns_with_something_to_reuse() -> None:
    total = build_report(RESULT)["total"]
    assert total["requests"] == 2
    assert total["errors"] == 1
    assert total["ceiling_tokens"] == 256
    assert total["ttft_s"]["p50"] == 0.75


def test_a_turn_that_nobody_completed_has_null_times() -> None:
    turn = build_report(RESULT)["turns"][2]
    assert (turn["requests"], turn["errors"]) == (0, 1)
    assert turn["ttft_s"] == {"p50": None, "p95": None, "p99": None}
    assert turn["hit_over_ceiling"] is None


def test_a_single_token_has_no_time_per_token() -> None:
    single = replace(RESULT, records=(record("s1", 1, output_ids=(1,), gaps_s=()),))
    assert build_report(single)["turns"][0]["tpot_s"]["p50"] is None


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([3.0], 0.99, 3.0), ([4.0, 1.0, 3.0, 2.0], 0.5, 2.5), ([1.0, 2.0], 1.0, 2.0)],
)
def test_percentiles_are_linear_between_neighbours(
    values: list[float], share: float, expected: float | None
) -> None:
    assert percentile(values, share) == expected


def test_equal_answers_have_no_difference() -> None:
    assert (
        compare_outputs(
            RunFolder.of_result(RESULT), RunFolder.of_result(replace(RESULT, wall_s=99.0))
        )
        == []
    )


def test_the_first_token_that_differs_is_found() -> None:
    other = replace(
        RESULT,
        records=(
            record("s1", 1, output_ids=(1, 9, 3)),
            record("s2", 1, output_ids=(1, 2)),
            record("s1", 2),
        ),
    )
    assert compare_outputs(RunFolder.of_result(RESULT), RunFolder.of_result(other)) == [
        Difference("s1", 1, 1),
        Difference("s2", 1, 2),
        Difference("s2", 2, 0),
    ]


def test_the_table_has_a_row_a_turn_and_a_total() -> None:
    assert rows_of(turn_table(build_report(RESULT))) == [
        "1 2 0 0 0 0 0 - 2.00/2.90 200/200",
        "2 2 0 176 16 48 256 0.938 0.750/0.975 300/390",
        "3 0 1 0 0 0 0 - -/- -/-",
        "2+ 2 1 176 16 48 256 0.938 0.750/0.975 300/390",
    ]


def test_runs_stand_side_by_side_turn_by_turn() -> None:
    slower = replace(
        RESULT, records=tuple(record("s1", turn, ttft_s=4.0, gaps_s=(0.06,)) for turn in (1, 2))
    )
    both = {"full": build_report(RESULT), "plain": build_report(slower)}
    assert rows_of(side_by_side(both)) == [
        "1 full - 0 0 0 2.00 200",
        "plain - 0 0 0 4.00 (x2.00) 60.0 (x0.30)",
        "2 full 0.938 176 16 48 0.750 300",
        "plain - 0 0 0 4.00 (x5.33) 60.0 (x0.20)",
        "3 full - 0 0 0 - -",
        "2+ full 0.938 176 16 48 0.750 300",
        "plain - 0 0 0 4.00 (x5.33) 60.0 (x0.20)",
    ]


def test_an_slo_counts_requests_that_keep_both_promises_and_failed_ones_as_missed() -> None:
    good = build_report(RESULT, Slo.parse("ttft=1s,tpot=300ms"))["goodput"]
    assert good["requests_meeting_slo"] == 2
    assert good["share_meeting_slo"] == 0.4
    assert good["requests_per_s_meeting_slo"] == 0.2


def test_what_was_sent_to_warm_up_is_told_apart_and_not_measured() -> None:
    warm = replace(RESULT.records[0], warmup=True, ttft_s=50.0)
    rest = (replace(r, sent_s=2.0, finished_s=6.0) for r in RESULT.records[1:])
    report = build_report(replace(RESULT, records=(warm, *rest)))
    assert report["requests"] == {"planned": 6, "completed": 3, "failed": 1, "warmup": 1}
    assert report["turns"][0]["ttft_s"]["p50"] == 3.0
    assert report["window_s"] == 4.0
    assert report["goodput"]["requests_per_s"] == 0.75
