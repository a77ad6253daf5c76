"""Events outlive their controller, a cut-off line, a full disk, and a file that grew too large."""

from __future__ import annotations

import contextlib
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdcache.cluster import events as module
from pdcache.cluster.events import SHOWN, Event, Events, read_events


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "events.jsonl"


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events]


def test_an_event_is_numbered_dated_and_written_at_once(path: Path) -> None:
    events = Events(path)
    first = events.add("prefill-0", "died", "exit code 1", "started again")
    assert events.add("prefill-0", "restarted", "healthy").number == 2
    assert first.number == 1
    assert abs(first.at_s - time.time()) < 5
    assert list(read_events(path)) == events.since(0)
    assert json.loads(path.read_text().splitlines()[0]) == first.as_json()


def test_a_reader_asks_for_what_is_new(path: Path) -> None:
    events = Events(path)
    for number in range(5):
        events.add("store", "noted", str(number))
    assert texts(events.since(3)) == ["3", "4"]
    assert events.since(5) == []
    assert events.since(99) == []


def test_numbers_go_on_after_a_restart(path: Path) -> None:
    Events(path).add("a", "noted", "before")
    again = Events(path)
    assert texts(again.since(0)) == ["before"]
    assert again.add("a", "noted", "after").number == 2
    assert [event.number for event in Events(path).since(0)] == [1, 2]


def test_a_line_that_was_cut_off_is_left_out_and_numbers_go_on(path: Path) -> None:
    first = Events(path)
    for text in ("one", "two", "three"):
        first.add("a", "noted", text)
    path.write_bytes(path.read_bytes()[:-20])
    again = Events(path)
    assert texts(again.since(0)) == ["one", "two"]
    assert again.add("a", "noted", "four").number == 3
    assert texts(again.since(0)) == ["one", "two", "four"]


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b"7", b"null", b'{"number": 1}', b"\xff\xfe", b'{"number": 9, "x":']
)
def test_a_line_of_another_kind_is_left_out(path: Path, line: bytes) -> None:
    Events(path).add("a", "noted", "one")
    path.write_bytes(line + b"\n" + path.read_bytes() + line + b"\n")
    again = Events(path)
    assert texts(again.since(0)) == ["one"]
    again.add("a", "noted", "two")
    assert texts(list(read_events(path))) == ["one", "two"]


def test_a_text_with_line_ends_and_odd_letters_stays_one_event(path: Path) -> None:
    odd = "a\nb\u2028c\x85d\x00 \ud800 \u00fc"
    Events(path).add("a", "noted", odd, odd)
    (event,) = read_events(path)
    assert (event.text, event.did) == (odd, odd)


def test_a_file_that_grew_too_large_is_begun_anew_and_the_one_before_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILE_LIMIT", 1000)
    events = Events(path)
    for number in range(30):
        events.add("store", "noted", f"event {number}")
    assert path.stat().st_size < 1200
    before = texts(list(read_events(path.with_name("events.previous.jsonl"))))
    now = texts(list(read_events(path)))
    assert [*before, *now][-len(now) - 3 :] == [f"event {n}" for n in range(27 - len(now), 30)]
    assert Events(path).add("store", "noted", "more").number == 31


def test_memory_holds_the_last_events_only(path: Path) -> None:
    rows = [Event(number, 0.0, "a", "noted", "").as_json() for number in range(1, SHOWN + 6)]
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    events = Events(path)
    assert len(events.since(0)) == SHOWN
    events.add("a", "noted", "last")
    assert len(events.since(0)) == SHOWN
    assert events.since(0)[-1].number == SHOWN + 6


def test_a_file_that_cannot_be_made_loses_the_line_and_not_the_event() -> None:
    events = Events(Path("/proc/nowhere/logs/events.jsonl"))
    events.add("a", "noted", "one")
    assert events.add("a", "noted", "two").number == 2
    assert texts(events.since(0)) == ["one", "two"]


def test_a_full_disk_loses_the_line_and_not_the_event(path: Path) -> None:
    events = Events(path)
    events.add("a", "noted", "one")
    with no_file_larger_than(path.stat().st_size + 10):
        events.add("a", "noted", "two")
    assert texts(events.since(0)) == ["one", "two"]
    assert texts(list(read_events(path))) == ["one"]


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As a full disk does, it takes the beginning of a line and refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_in_the_place_of_the_file_is_no_reason_to_end(tmp_path: Path) -> None:
    events = Events(tmp_path)
    assert events.add("a", "noted", "one").number == 1
