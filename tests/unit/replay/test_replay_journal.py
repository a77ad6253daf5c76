from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdcache.errors import ReplayError
from pdcache.replay import CachedTokens, Journal, Past, RequestError, RequestRecord, Session, Turn
from pdcache.replay.journal import Pages, read_lines, read_run

ENVIRONMENT = {
    "schema": 1, "target": "http://h:1", "mode": "full_offload", "page_size": 4,
    "spec": {"requests_planned": 3}, "wall_s": None, "complete": False,
}  # fmt: skip


def record(session: str, turn: int, error: RequestError | None = None) -> RequestRecord:
    return RequestRecord(
        session=session, turn=turn, prompt_tokens=9, output_ids=() if error else (turn, 8),
        cached=CachedTokens(1, 2, 3), ceiling_tokens=8, sent_s=1.0 * turn, send_lag_s=0.0,
        ttft_s=0.5, gaps_s=(0.25,), latency_s=0.75, error=error, prompt_ids_hash="ab",
        finished_s=turn + 0.75, expected_output_tokens=2, warmup=turn == 1,
    )  # fmt: skip


LOST = RequestError("connect", "refused")


def test_lines_are_on_disk_before_the_folder_is_closed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run", dict(ENVIRONMENT))
    journal.__enter__()
    journal.request(record("s1", 1), Pages([11, 12], [13]))
    journal.sample(0.5, "prefill-0", "prefill", {"sglang:token_usage": 0.25})
    assert read_run(tmp_path / "run").records == (record("s1", 1),)
    assert list(read_lines(tmp_path / "run" / "pages.jsonl")) == [
        {
            "session": "s1", "turn": 1, "prompt_pages": [11, 12], "answer_pages": [13],
            "prompt_tokens": 9, "output_tokens": 2,
        }
    ]  # fmt: skip
    assert list(read_lines(tmp_path / "run" / "timeline.jsonl")) == [
        {
            "at_s": 0.5, "worker": "prefill-0", "role": "prefill",
            "values": {"sglang:token_usage": 0.25},
        }
    ]  # fmt: skip
    journal.__exit__(None, None, None)


def test_the_environment_is_whole_at_any_time(tmp_path: Path) -> None:
    with Journal(tmp_path, dict(ENVIRONMENT)) as journal:
        assert json.loads((tmp_path / "environment.json").read_text()) == ENVIRONMENT
        journal.environment["complete"] = True
    assert json.loads((tmp_path / "environment.json").read_text())["complete"] is True
    assert not list(tmp_path.glob("*.new"))


@given(st.integers(0, 400))
def test_a_file_that_was_cut_anywhere_keeps_its_whole_lines(cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.jsonl"
        with Journal(folder, dict(ENVIRONMENT)) as journal:
            journal.request(record("s1", 1), None)
            journal.request(record("s1", 2), None)
        data = path.read_bytes()
        path.write_bytes(data[: max(0, len(data) - cut)])
        whole = data[: max(0, len(data) - cut)].count(b"\n")
        with Journal(folder, dict(ENVIRONMENT)) as journal:
            journal.request(record("s1", 3), None)
        turns = [own.turn for own in read_run(folder).records]
    assert turns == [*range(1, whole + 1), 3]


def test_of_a_turn_that_was_sent_again_the_last_record_counts(tmp_path: Path) -> None:
    with Journal(tmp_path, dict(ENVIRONMENT)) as journal:
        for own in (record("s1", 1), record("s2", 1, LOST), record("s1", 2), record("s2", 1)):
            journal.request(own, None)
    assert read_run(tmp_path).records == (record("s1", 1), record("s1", 2), record("s2", 1))


def test_what_is_left_is_told_apart_from_what_is_done(tmp_path: Path) -> None:
    sessions = [Session(f"s{i}", (Turn("a", 2), Turn("b", 2))) for i in (1, 2, 3, 4)]
    with Journal(tmp_path, dict(ENVIRONMENT)) as journal:
        for own in (record("s1", 1), record("s2", 1), record("s1", 2), record("s3", 1, LOST)):
            journal.request(own, None)
        journal.sample(9.0, "prefill-0", "prefill", {})
    past = Past.read(tmp_path, sessions)
    assert past.finished == {"s1"}
    assert past.answers == {"s2": [(1, 8)]}
    assert (past.completed, past.sent, past.elapsed_s) == (3, 4, 9.0)
    assert past.steady_from_s == 2.0


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"environment\.json"):
        Past.read(tmp_path, [])


@pytest.mark.parametrize("line", ["[]", "{", '{"session": "s1"}'])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    with Journal(tmp_path, dict(ENVIRONMENT)):
        pass
    (tmp_path / "requests.jsonl").write_text(line + "\n")
    with pytest.raises(ReplayError, match=r"requests\.jsonl"):
        Past.read(tmp_path, [])
    with pytest.raises(ReplayError, match=r"requests\.jsonl"):
        read_run(tmp_path)


def test_a_full_disk_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with Journal(tmp_path, dict(ENVIRONMENT)) as journal:
        journal._files["requests.jsonl"] = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
        with pytest.raises(ReplayError, match=r"requests\.jsonl cannot be written.*resume"):
            journal.request(record("s1", 1), None)
