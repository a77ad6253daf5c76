"""Reports of replays: what was reused, against what could have been, and where the rest went.

run = RunFolder.read("out/run1")
report = build_report(run, Slo.parse("ttft=2s,tpot=100ms"))
write_report("out/run1")                      # report.json, requests.parquet, report.html
"""

from __future__ import annotations

from pdcache.reports.answers import Difference, compare_outputs
from pdcache.reports.compare import Comparison, compare, read_groups
from pdcache.reports.comparison_page import write_comparison
from pdcache.reports.goodput import Slo
from pdcache.reports.report import Report, build_report
from pdcache.reports.run_folder import RunFolder
from pdcache.reports.tables import side_by_side, turn_table
from pdcache.reports.write import write_report

__all__ = [
    "Comparison",
    "Difference",
    "Report",
    "RunFolder",
    "Slo",
    "build_report",
    "compare",
    "compare_outputs",
    "read_groups",
    "side_by_side",
    "turn_table",
    "write_comparison",
    "write_report",
]
