"""`events`: the last ones, as lines or as JSON, of a cluster that is up or down."""

from __future__ import annotations

import re

import pytest
from command_outcome import Pdcache

from pdcache.cli import events as command
from pdcache.cluster.events import Events
from pdcache.cluster.record import cluster_folder


@pytest.fixture
def events() -> Events:
    noted = Events(cluster_folder("demo") / "logs" / "events.jsonl")
    noted.add("prefill-0", "died", "ended with exit code -9", "started again")
    noted.add("prefill-0", "restarted", "healthy [and proved] after 3 s")
    return noted


def test_a_line_tells_when_who_what_and_what_was_done(pdcache: Pdcache, events: Events) -> None:
    done = pdcache("events", "demo")
    assert done.code == 0
    first, second = done.out.splitlines()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d prefill-0      died       "
        r"ended with exit code -9 -> started again",
        first,
    )
    assert second.endswith("restarted  healthy [and proved] after 3 s")


def test_json_has_the_keys_that_programs_rely_on(pdcache: Pdcache, events: Events) -> None:
    data = pdcache("events", "demo", "--json").json()
    assert data["schema"] == 1
    assert [event["number"] for event in data["events"]] == [1, 2]
    assert data["events"][0].keys() == {"number", "at_s", "subject", "kind", "text", "did"}


def test_the_last_events_are_shown(pdcache: Pdcache, events: Events) -> None:
    for number in range(100):
        events.add("store", "noted", f"event {number}")
    assert len(pdcache("events", "demo").out.splitlines()) == 50
    assert pdcache("events", "demo", "-n", "1").out.strip().endswith("event 99")
    assert pdcache("events", "demo", "-n", "1", "--json").json()["events"][0]["number"] == 102


def test_a_long_event_is_one_line(pdcache: Pdcache, events: Events) -> None:
    events.add("store", "noted", "word " * 200)
    assert len(pdcache("events", "demo", "-n", "1").out.splitlines()) == 1


def test_a_cluster_that_never_was_has_no_events(pdcache: Pdcache) -> None:
    done = pdcache("events", "nobody")
    assert (done.code, done.out) == (1, "")
    assert "there are no events of a cluster named 'nobody'" in done.err


@pytest.mark.parametrize("lines", ["0", "-1", "1001", "many"])
def test_a_wrong_number_of_lines_is_wrong_usage(pdcache: Pdcache, lines: str) -> None:
    assert pdcache("events", "demo", "-n", lines).code == 2


def test_without_a_name_it_is_wrong_usage(pdcache: Pdcache) -> None:
    assert pdcache("events").code == 2


def test_following_shows_each_new_event_once(
    pdcache: Pdcache, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = iter([["one"], [], ["two", "three"], None])

    def meanwhile(seconds: float) -> None:
        new = next(pauses)
        if new is None:
            raise KeyboardInterrupt
        for text in new:
            events.add("store", "noted", text)

    monkeypatch.setattr(command.time, "sleep", meanwhile)
    done = pdcache("events", "demo", "-f", "-n", "1")
    assert done.code == 130
    assert [line.split()[-1] for line in done.out.splitlines()] == ["s", "one", "two", "three"]
