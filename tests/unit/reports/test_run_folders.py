from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pdcache.errors import ReplayError
from pdcache.reports import RunFolder

Make = Callable[..., Path]


def test_a_run_is_read_back(made: Make) -> None:
    run = RunFolder.read(made(sessions=2, turns=3))
    assert len(run.requests) == len(run.pages) == 6
    assert run.environment.prefills == 2
    assert run.environment.capacity.storage == 90_000
    assert run.wall_s == max(record.finished_s for record in run.requests)


@pytest.mark.parametrize("name", ["requests.jsonl", "pages.jsonl", "timeline.jsonl"])
def test_a_last_line_that_a_kill_cut_is_left_out(made: Make, name: str) -> None:
    path = made() / name
    before = RunFolder.read(path.parent)
    path.write_bytes(path.read_bytes()[:-15])
    after = RunFolder.read(path.parent)
    assert sum(map(len, (before.requests, before.pages, before.timeline))) - 1 == sum(
        map(len, (after.requests, after.pages, after.timeline))
    )


def test_a_run_that_was_cut_keeps_its_finished_records(made: Make) -> None:
    folder = made()
    whole = RunFolder.read(folder)
    path = folder / "requests.jsonl"
    path.write_bytes(path.read_bytes()[:-15])
    assert RunFolder.read(folder).requests == whole.requests[:-1]


def test_a_broken_line_in_the_middle_is_named_by_file_and_line(made: Make) -> None:
    path = made() / "pages.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], '{"session": "s1"}\n', *lines[1:]]))
    with pytest.raises(ReplayError, match=r"pages.jsonl:2: .*KeyError\('turn'\)"):
        RunFolder.read(path.parent)


def test_of_a_request_that_was_sent_again_the_last_record_counts(made: Make) -> None:
    folder = made(sessions=1, turns=2)
    path = folder / "requests.jsonl"
    first = json.loads(path.read_text().splitlines()[0])
    again = {**first, "ttft_s": 9.0}
    with path.open("a") as file:
        file.write(json.dumps(again) + "\n")
    run = RunFolder.read(folder)
    assert [(record.turn, record.ttft_s == 9.0) for record in run.requests] == [
        (2, False),
        (1, True),
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 2}, "schema 2 is unknown"),
        ({"mode": "half"}, "mode 'half' is unknown"),
        ({"page_size": 0}, "page_size is 0"),
    ],
)
def test_an_environment_of_another_kind_is_refused(
    made: Make, change: dict[str, object], told: str
) -> None:
    path = made() / "environment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ReplayError, match=told):
        RunFolder.read(path.parent)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"environment.json: there is no readable run"):
        RunFolder.read(tmp_path)


def test_a_run_without_pages_and_timeline_can_be_read(made: Make) -> None:
    folder = made()
    (folder / "pages.jsonl").unlink()
    (folder / "timeline.jsonl").unlink()
    run = RunFolder.read(folder)
    assert (run.pages, run.timeline) == ({}, ())
