"""Writes a run's report into its folder: `report.json`, `requests.parquet`, `report.html`."""

from __future__ import annotations

import json
from pathlib import Path

from pdcache.errors import ReplayError
from pdcache.reports.goodput import Slo
from pdcache.reports.page import report_page
from pdcache.reports.report import Report, build_report
from pdcache.reports.run_folder import RunFolder

REPORT_FILE = "report.json"
PARQUET_FILE = "requests.parquet"
PAGE_FILE = "report.html"


def write_report(folder: str | Path, slo: Slo | None = None) -> Report:
    """Read a run folder, write its report beside it, and give the report.

    Raises:
        ReplayError: the folder holds no run, or cannot be written.
    """
    from pdcache.reports.parquet import write_parquet  # pyarrow takes its time

    path = Path(folder)
    run = RunFolder.read(path)
    report = build_report(run, slo)
    try:
        (path / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (path / PAGE_FILE).write_text(report_page(run, report, title_of(path)), encoding="utf-8")
        write_parquet(run, path / PARQUET_FILE)
    except OSError as cause:
        raise ReplayError(
            f"the report cannot be written: {cause}.",
            where=str(folder),
            remedy="Give a folder that can be written.",
        ) from cause
    return report


def title_of(folder: Path) -> str:
    """The name of a run: an experiment's are numbered within the folder of their group."""
    own = folder.resolve()
    return f"{own.parent.name} {own.name}" if own.name.isdigit() else own.name
