"""Several runs side by side: repetitions of one label together, with confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdcache.errors import ReplayError
from pdcache.reports.answers import Difference, compare_outputs
from pdcache.reports.goodput import Slo
from pdcache.reports.report import Report, build_report
from pdcache.reports.run_folder import RunFolder
from pdcache.reports.statistics import Estimate, estimate

Comparison = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """One number of a report that runs are compared by.

    Attributes:
        name: its key in the comparison.
        label: what a person reads.
        kind: `share`, `seconds` or `rate`, which says how it is shown.
        better: `lower` or `higher`.
        value: takes it from a report; None when it has none.
    """

    name: str
    label: str
    kind: str
    better: str
    value: Callable[[Report], float | None]


METRICS = (
    Metric("hit_over_ceiling", "hit / ceiling, turns from 2", "share", "higher",
           lambda report: report["total"]["hit_over_ceiling"]),
    Metric("hit_over_prompt", "prompt tokens reused, turns from 2", "share", "higher",
           lambda report: report["total"]["hit_over_prompt"]),
    Metric("ttft_p50_s", "TTFT p50, turns from 2", "seconds", "lower",
           lambda report: report["total"]["ttft_s"]["p50"]),
    Metric("ttft_p95_s", "TTFT p95, turns from 2", "seconds", "lower",
           lambda report: report["total"]["ttft_s"]["p95"]),
    Metric("tpot_p50_s", "TPOT p50, turns from 2", "seconds", "lower",
           lambda report: report["total"]["tpot_s"]["p50"]),
    Metric("output_tokens_per_s", "output tokens a second", "rate", "higher",
           lambda report: report["goodput"]["output_tokens_per_s"]),
    Metric("share_meeting_slo", "requests that meet the SLO", "share", "higher",
           lambda report: report["goodput"].get("share_meeting_slo")),
)  # fmt: skip


def read_groups(folders: Sequence[Path]) -> dict[str, list[RunFolder]]:
    """Runs by label, in the order given.

    Folders NAME/0, NAME/1, ... are repetitions of NAME. Any other folder is a group of its own. Two
    groups of one name go by their whole paths.

    Raises:
        ReplayError: a folder holds no run, or is given twice.
    """
    groups: dict[Path, list[RunFolder]] = {}
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise ReplayError(
                "the folder is given twice.", where=str(folder), remedy="Give each run once."
            )
        seen.add(folder.resolve())
        whose = folder.resolve().parent if folder.resolve().name.isdecimal() else folder
        groups.setdefault(whose, []).append(RunFolder.read(folder))
    names = [whose.resolve().name for whose in groups]
    return {
        whose.resolve().name if names.count(whose.resolve().name) == 1 else str(whose): runs
        for whose, runs in groups.items()
    }


def compare(groups: Mapping[str, Sequence[RunFolder]], slo: Slo | None = None) -> Comparison:
    """The comparison as data, `"schema": 1`; every group has at least one run.

    Each number is the mean of its repetitions' own numbers (a mean of medians for a p50), with
    Student's 95 % interval. `differs_from_first` tells whether the intervals do not touch, which is
    stricter than a test at 5 %. `reports` has the first repetition's report of each group.
    """
    reports = {name: [build_report(run, slo) for run in runs] for name, runs in groups.items()}
    names = list(groups)
    base = _numbers(reports[names[0]])
    return {
        "schema": 1,
        "interval": "Student's t, 95 %, over repetitions",
        "groups": [_group(name, reports[name], base) for name in names],
        "reports": {name: of[0] for name, of in reports.items()},
        "differences": {
            name: [difference._asdict() for difference in _differences(groups[names[0]], runs)]
            for name, runs in groups.items()
            if name != names[0]
        },
        "same_answers_within": {
            name: not any(compare_outputs(runs[0], run) for run in runs[1:])
            for name, runs in groups.items()
            if len(runs) > 1
        },
    }


def _group(name: str, reports: Sequence[Report], base: Mapping[str, Estimate]) -> dict[str, Any]:
    own = _numbers(reports)
    turns = sorted({turn["turn"] for report in reports for turn in report["turns"]})
    return {
        "label": name,
        "runs": len(reports),
        "mode": reports[0]["mode"],
        "reuse": reports[0]["reuse"],
        "errors": sum(report["errors"] for report in reports),
        "complete": all(report["complete"] for report in reports),
        "numbers": {
            key: {
                **found._asdict(),
                "factor_of_first": _factor(found, base.get(key)),
                "differs_from_first": key in base and found.apart_from(base[key]),
            }
            for key, found in own.items()
        },
        "turns": [{"turn": turn, **_turn(turn, reports)} for turn in turns],
        "losses": {
            key: sum(report["losses"][key] for report in reports) / len(reports)
            for key in reports[0]["losses"]
        },
    }


def _numbers(reports: Sequence[Report]) -> dict[str, Estimate]:
    found = {}
    for metric in METRICS:
        values = [metric.value(report) for report in reports]
        mean = estimate([value for value in values if value is not None])
        if mean is not None:
            found[metric.name] = mean
    return found


def _turn(number: int, reports: Sequence[Report]) -> dict[str, Any]:
    rows = [row for report in reports for row in report["turns"] if row["turn"] == number]

    def over(values: Sequence[float | None]) -> dict[str, Any] | None:
        mean = estimate([value for value in values if value is not None])
        return None if mean is None else mean._asdict()

    return {
        "ttft_p50_s": over([row["ttft_s"]["p50"] for row in rows]),
        "tpot_p50_s": over([row["tpot_s"]["p50"] for row in rows]),
        "hit_over_ceiling": over([row["hit_over_ceiling"] for row in rows]),
    }


def _factor(found: Estimate, base: Estimate | None) -> float | None:
    return found.mean / base.mean if base is not None and base.mean else None


def _differences(first: Sequence[RunFolder], runs: Sequence[RunFolder]) -> list[Difference]:
    """Answers of the first repetitions that are not the same token for token."""
    return compare_outputs(first[0], runs[0])
