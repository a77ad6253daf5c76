from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_commands import FakeCommands

from pdcache.errors import ReplayError
from pdcache.experiments import Outcome, load_experiment, run_experiment

Write = Callable[..., Path]


def run(file: Path, out: Path, commands: FakeCommands) -> Outcome:
    return run_experiment(load_experiment(file), out, command=commands)


def labels(outcome: Outcome) -> list[tuple[str, int]]:
    assert outcome.comparison is not None
    return [(group["label"], group["runs"]) for group in outcome.comparison["groups"]]


def test_every_step_is_brought_up_loaded_and_brought_down(written: Write, tmp_path: Path) -> None:
    commands = FakeCommands()
    outcome = run(written(), tmp_path / "out", commands)
    assert commands.names == ["down", "up", "replay", "down"] * 4
    assert not commands.up
    assert labels(outcome) == [("prefill_only", 2), ("full_offload", 2)]
    assert outcome.failed == {}
    for name in ("comparison.html", "comparison.json", "cells/full_offload/1/report.html"):
        assert (tmp_path / "out" / name).is_file()


def test_the_words_of_a_step_follow_from_the_file(written: Write, tmp_path: Path) -> None:
    cells = [
        {"name": "full", "topology": "full_offload.yaml", "set": ["page_size=128"],
         "up": ["--no-verify"]},
        {"name": "none", "topology": "full_offload.yaml", "reuse": False},
    ]  # fmt: skip
    commands = FakeCommands()
    run(written(cells=cells, arms=["hot", "flushed"], repetitions=1), tmp_path / "out", commands)
    ups = [words for words in commands.calls if words[0] == "up"]
    replays = [words for words in commands.calls if words[0] == "replay"]
    full_offload = str(tmp_path / "full_offload.yaml")
    assert ups[0] == [
        "up", full_offload, "--name", "exp-modes", "--set", "page_size=128", "--no-verify",
    ]  # fmt: skip
    assert replays[0] == [
        "replay", str(tmp_path / "out/sessions.jsonl"), "--target", "exp-modes",
        "--out", str(tmp_path / "out/cells/full-hot/0"), "--concurrency", "2",
        "--salt", "full-hot/0",
    ]  # fmt: skip
    assert replays[1][6:] == ["--concurrency", "1", "--flush", "--salt", "full-flushed/0"]
    assert replays[2][6:] == ["--concurrency", "2", "--no-reuse"]


def test_an_interrupted_experiment_goes_on_and_runs_nothing_twice(
    written: Write, tmp_path: Path
) -> None:
    whole = FakeCommands()
    run(written(), tmp_path / "whole", whole)
    for at in range(len(whole.calls)):
        out = tmp_path / f"out{at}"
        first, second = FakeCommands(interrupt_at=at), FakeCommands()
        with pytest.raises(KeyboardInterrupt):
            run(written(), out, first)
        # A `down` that is itself interrupted is made up for by the next step's.
        if first.calls[at][0] != "down":
            assert not first.up
        second.up = first.up
        outcome = run(written(), out, second)
        done = at // 4
        assert second.names == ["down", "up", "replay", "down"] * (4 - done)
        assert labels(outcome) == [("prefill_only", 2), ("full_offload", 2)]


@pytest.mark.parametrize("command", ["up", "replay"])
def test_a_cell_that_fails_is_told_with_its_log_and_the_others_go_on(
    written: Write, tmp_path: Path, command: str
) -> None:
    upped: list[str] = []

    def fails(words: list[str]) -> bool:
        if words[0] == "up":
            upped[:] = [words[1]]
        return words[0] == command and "prefill_only" in upped[0]

    commands = FakeCommands(fails)
    outcome = run(written(), tmp_path / "out", commands)
    assert set(outcome.failed) == {"prefill_only/0", "prefill_only/1"}
    failed = outcome.failed["prefill_only/0"]
    assert failed.log_tail.splitlines()[-1] == "last words"
    assert (tmp_path / "out" / failed.log).is_file()
    assert labels(outcome) == [("full_offload", 2)]
    assert not commands.up


def test_a_failed_step_is_tried_again_by_the_same_command(written: Write, tmp_path: Path) -> None:
    run(written(), tmp_path / "out", FakeCommands(lambda words: words[0] == "up"))
    again = FakeCommands()
    outcome = run(written(), tmp_path / "out", again)
    assert again.names.count("up") == 4
    assert outcome.failed == {}


def test_more_repetitions_are_added_to_those_that_are_done(written: Write, tmp_path: Path) -> None:
    run(written(repetitions=1), tmp_path / "out", FakeCommands())
    more = FakeCommands()
    outcome = run(written(repetitions=3), tmp_path / "out", more)
    assert more.names.count("up") == 4
    assert labels(outcome) == [("prefill_only", 3), ("full_offload", 3)]


def test_another_experiment_is_not_mixed_into_the_folder(written: Write, tmp_path: Path) -> None:
    run(written(), tmp_path / "out", FakeCommands())
    load = {"generate": {"sessions": 3, "turns": 2}}
    with pytest.raises(ReplayError, match="another experiment"):
        run(written(load=load), tmp_path / "out", FakeCommands())


def test_a_topology_that_was_changed_makes_another_experiment(
    written: Write, tmp_path: Path
) -> None:
    file = written()
    experiment = load_experiment(file)
    run_experiment(experiment, tmp_path / "out", command=FakeCommands())
    (tmp_path / "full_offload.yaml").write_text("name: other\n")
    with pytest.raises(ReplayError, match="another version"):
        run_experiment(experiment, tmp_path / "out", command=FakeCommands())


def test_wrong_arguments_of_the_generator_are_told(written: Write, tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"load.generate: .*'session'"):
        run(written(load={"generate": {"session": 2}}), tmp_path / "out", FakeCommands())


def test_the_state_is_a_file_that_programs_can_read(written: Write, tmp_path: Path) -> None:
    run(written(), tmp_path / "out", FakeCommands(lambda words: words[0] == "up"))
    state = json.loads((tmp_path / "out/state.json").read_text())
    assert state["schema"] == 1
    assert state["steps"]["full_offload/1"]["error"] == "pdcache up failed (exit 1)"
