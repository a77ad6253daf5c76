from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pdcache.cli.main import app
from pdcache.errors import ReplayError
from pdcache.reports import Slo

Make = Callable[..., Path]


def told(*words: object) -> str:
    """What a command that must exit 0 prints."""
    outcome = CliRunner().invoke(app, [str(word) for word in words])
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_a_report_is_written_anew_with_another_slo(made: Make) -> None:
    folder = made()
    assert json.loads(told("report", folder, "--json"))["goodput"].keys() == {
        "requests_per_s",
        "output_tokens_per_s",
    }
    report = json.loads(told("report", folder, "--slo", "ttft=300ms", "--json"))
    assert report == json.loads((folder / "report.json").read_text())
    assert report["goodput"]["slo"] == {"ttft_s": 0.3, "tpot_s": None}
    assert "report.html" in told("report", folder)


def test_a_run_that_was_cut_has_a_report(made: Make) -> None:
    folder = made()
    environment = json.loads((folder / "environment.json").read_text())
    unfinished = {**environment, "wall_s": None, "complete": False}
    (folder / "environment.json").write_text(json.dumps(unfinished))
    path = folder / "requests.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    report = json.loads(told("report", folder, "--json"))
    assert report["complete"] is False
    assert report["requests"]["completed"] == 11
    assert "cut short" in (folder / "report.html").read_text()


def test_runs_are_compared_and_the_comparison_written(made: Make, tmp_path: Path) -> None:
    a, b = made("a"), made("b", mode="prefill_only")
    out = tmp_path / "both"
    shown = told("compare", a, b, "--out", out)
    assert "a and b: the same answers, token for token" in shown
    comparison = json.loads(told("compare", a, b, "--json"))
    assert comparison == json.loads((out / "comparison.json").read_text())
    assert (out / "comparison.html").is_file()


@pytest.mark.parametrize("text", ["", "ttft=2", "ttft=2s,ttft=3s", "itl=2s", "ttft=-1s", "ttft=s"])
def test_an_slo_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ReplayError, match=r"--slo: .* is no objective"):
        Slo.parse(text)


def test_an_slo_is_read_in_seconds_and_milliseconds() -> None:
    assert Slo.parse("ttft=1.5s, tpot=80ms") == Slo(1.5, 0.08)
