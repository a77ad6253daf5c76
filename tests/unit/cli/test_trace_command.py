from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_outcome import Pdcache

from pdcache.cli import trace, trace_synth
from pdcache.replay import load_sessions

LINES = [
    {"timestamp": 0, "input_length": 1024, "output_length": 9, "hash_ids": [0, 1]},
    {"timestamp": 2000, "input_length": 1100, "output_length": 9, "hash_ids": [0, 1, 2]},
    {"timestamp": 4000, "input_length": 512, "output_length": 9, "hash_ids": [0]},
]
NAMES = [command.name for command in trace.app.registered_commands]
SYNTH = [command.name for command in trace_synth.app.registered_commands]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three requests, and a malformed line before the last one."""
    first, second, third = map(json.dumps, LINES)
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{first}\n{second}\n{{}}\n{third}\n")
    return path


@pytest.mark.parametrize(
    "command", [*([name] for name in NAMES), *(["synth", name] for name in SYNTH)]
)
def test_the_help_of_a_command_shows_an_example(pdcache: Pdcache, command: list[str]) -> None:
    done = pdcache("trace", *command, "--help")
    assert done.code == 0
    assert f"Example: pdcache trace {' '.join(command)}" in " ".join(done.out.split())


def test_stats_as_json_are_shares(pdcache: Pdcache, file: Path) -> None:
    done = pdcache("trace", "stats", file, "--json", "--capacity", "1,2", "--page-size", "64")
    assert done.code == 0
    stats = done.json()
    assert (stats["schema"], stats["requests"], stats["format"]) == (1, 3, "mooncake")
    assert (stats["block_refs"], stats["unique_blocks"]) == (6, 3)
    assert stats["ceiling_blocks"] == 3 / 6
    assert stats["ceiling_tokens"] == (1024 + 512) / 2636
    # The last token of the third prompt is computed, and with it its last page.
    assert stats["ceiling_pages"] == (1024 + 448) / 2636
    assert stats["lru"] == {"1": 2 / 6, "2": 3 / 6}
    assert stats["optimal"] == {"1": 2 / 6, "2": 3 / 6}
    assert stats["malformed"]["lines"] == 1
    assert stats["malformed"]["first"][0].startswith(f"{file}:3: ")


def test_stats_are_shown_as_tables_and_malformed_lines_are_told(
    pdcache: Pdcache, file: Path
) -> None:
    done = pdcache("trace", "stats", file, "--capacity", "1,2")
    assert done.code == 0
    for words in ("3 requests in 4 s", "6 blocks of 512 tokens, 3 different ones", "50.00%", "█"):
        assert words in done.out
    assert "1 malformed lines were left out" in done.err
    assert f"{file}:3: 'timestamp' is missing" in " ".join(done.err.split())


def test_strict_stops_at_the_malformed_line(pdcache: Pdcache, file: Path) -> None:
    done = pdcache("trace", "stats", file, "--strict")
    assert (done.code, done.out) == (1, "")
    assert f"{file}:3" in done.err


def test_a_trace_without_a_good_line_is_an_error(pdcache: Pdcache, tmp_path: Path) -> None:
    (tmp_path / "t").write_text('{"input_length": 0}\n')
    done = pdcache("trace", "stats", tmp_path / "t")
    assert (done.code, done.out) == (1, "")
    assert "no line can be read as mooncake" in done.err
    assert "'timestamp' is missing" in done.err


def test_import_writes_sessions_that_replay_takes(
    pdcache: Pdcache, file: Path, tmp_path: Path
) -> None:
    done = pdcache("trace", "import", file, "--out", tmp_path / "s.jsonl", "--limit", "2")
    assert done.code == 0
    assert "2 sessions, 2 turns" in done.out
    sessions = load_sessions(tmp_path / "s.jsonl")
    assert [session.start_s for session in sessions] == [0.0, 2.0]


def test_dialogues_get_times(pdcache: Pdcache, tmp_path: Path) -> None:
    messages = [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yes."}] * 2
    (tmp_path / "t").write_text(json.dumps([{"conversations": messages}] * 2))
    words = ("--arrivals", "constant:rate=2", "--think", "4", "--out", tmp_path / "s.jsonl")
    assert pdcache("trace", "import", tmp_path / "t", *words).code == 0
    first, second = load_sessions(tmp_path / "s.jsonl")
    assert [turn.think_s for turn in first.turns] == [0.0, 4.0]
    assert second.start_s == 0.5


def test_a_trace_with_times_of_its_own_gets_no_others(
    pdcache: Pdcache, file: Path, tmp_path: Path
) -> None:
    done = pdcache("trace", "import", file, "--think", "4", "--out", tmp_path / "s.jsonl")
    assert done.code == 1
    assert "tells its own times" in done.err


def test_a_trace_can_be_replaced_by_a_part_of_itself(pdcache: Pdcache, file: Path) -> None:
    done = pdcache("trace", "slice", file, "--from", "1", "--to", "3", "--out", file)
    assert done.code == 0
    assert file.read_text() == json.dumps(LINES[1]) + "\n"


def test_a_part_that_is_empty_leaves_what_was_there(pdcache: Pdcache, file: Path) -> None:
    before = file.read_text()
    assert pdcache("trace", "slice", file, "--from", "99", "--out", file).code == 1
    assert file.read_text() == before
    assert [path.name for path in file.parent.iterdir() if path.is_file()] == [file.name]


@pytest.mark.parametrize("kind", SYNTH)
def test_synth_writes_the_same_sessions_for_a_seed(
    pdcache: Pdcache, tmp_path: Path, kind: str
) -> None:
    def made(seed: int) -> bytes:
        out = tmp_path / "s.jsonl"
        options = ("--sessions", "5", "--turns", "zipf:alpha=1,max=4", "--seed", seed)
        assert pdcache("trace", "synth", kind, *options, "--out", out).code == 0
        assert len(load_sessions(out)) == 5
        return out.read_bytes()

    assert made(1) == made(1) != made(2)


def test_texts_without_a_tokenizer_are_counted_in_characters(
    pdcache: Pdcache, tmp_path: Path
) -> None:
    out = tmp_path / "s.jsonl"
    assert pdcache("trace", "synth", "chat", "--sessions", "5", "--out", out).code == 0
    done = pdcache("trace", "stats", out)
    assert "--model NAME counts their tokens" in done.out
    stats = pdcache("trace", "stats", out, "--json").json()
    assert (stats["requests"], stats["input_tokens"], stats["ceiling_blocks"]) == (20, None, None)
    sessions = load_sessions(out)
    added = sum(len(turn.user or "") for session in sessions for turn in session.turns)
    added += sum(len(session.system or "") for session in sessions)
    assert stats["input_characters"]["total"] == added


def test_with_a_tokenizer_texts_have_pages(pdcache: Pdcache, tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    assert pdcache("trace", "synth", "chat", "--sessions", "4", "--out", out).code == 0
    stats = pdcache(
        "trace", "stats", out, "--json", "--model", "tiny-random", "--page-size", "16"
    ).json()
    assert (stats["requests"], stats["block_size"]) == (16, 16)
    # All but the first prompt begins with one that was seen.
    assert 0.5 < stats["ceiling_tokens"] < 1
    assert stats["input_tokens"]["total"] // 16 - 16 <= stats["block_refs"]
    assert stats["block_refs"] <= stats["input_tokens"]["total"] // 16


@pytest.mark.parametrize("words", [["--capacity", "many"], ["--capacity", "0"], ["--format", "x"]])
def test_a_wrong_option_is_named(pdcache: Pdcache, file: Path, words: list[str]) -> None:
    done = pdcache("trace", "stats", file, *words)
    assert (done.code, done.out) == (1, "")
    assert words[0].strip("-") in done.err
