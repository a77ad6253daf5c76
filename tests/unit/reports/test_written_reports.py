"""What is written beside a run: the table of its requests, and a page with its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from pdcache.reports import RunFolder, write_report
from pdcache.reports.losses import NAMES
from pdcache.reports.write import title_of

Make = Callable[..., Path]


def test_a_row_a_request_with_ceilings_and_losses(made: Make) -> None:
    folder = made(threshold=256, fail=((1, 3),))
    report = write_report(folder)
    table = pq.read_table(folder / "requests.parquet")
    run = RunFolder.read(folder)
    assert table.num_rows == len(run.requests)
    rows = table.to_pylist()
    assert [row["session"] for row in rows] == [record.session for record in run.requests]
    done = [row for row in rows if row["error"] is None]
    for name in NAMES:
        assert sum(row[f"lost_{name}"] for row in done) == report["losses"][f"{name}_tokens"]
    assert sum(row["ceiling_mode"] for row in done) == report["losses"]["ceiling_tokens"]


def test_a_request_that_failed_has_an_error_and_no_losses(made: Make) -> None:
    folder = made(fail=((0, 1),))
    write_report(folder)
    rows = pq.read_table(folder / "requests.parquet").to_pylist()
    failed = next(row for row in rows if row["error"] is not None)
    assert (failed["error"], failed["ttft_s"], failed["lost_unexplained"]) == (
        "http_503",
        None,
        None,
    )


def test_a_numbered_run_is_titled_with_its_group(tmp_path: Path) -> None:
    assert title_of(tmp_path / "full_offload-hot" / "0") == "full_offload-hot 0"
    assert title_of(tmp_path / "monday") == "monday"
