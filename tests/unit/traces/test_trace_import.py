from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from trace_lines import Written

from pdcache.errors import ReplayError
from pdcache.replay import Session, Turn, dump_sessions, load_sessions
from pdcache.traces.cut import slice_trace
from pdcache.traces.importing import import_sessions
from pdcache.traces.problems import Problems
from pdcache.traces.stats import trace_stats
from pdcache.traces.trace import Trace
from pdcache.traces.workload import workload_of


def imported(path: Path, limit: int | None = None) -> list[Session]:
    return list(import_sessions(Trace(path), Problems(strict=True), limit))


def mooncake(at_ms: float | None, *blocks: int, **more: Any) -> dict[str, Any]:
    line = {"input_length": 512 * len(blocks), "output_length": 9, "hash_ids": list(blocks)}
    return line | ({} if at_ms is None else {"timestamp": at_ms}) | more


def bailian(chat: int, parent: int, at_s: float) -> dict[str, Any]:
    return {
        "chat_id": chat, "parent_chat_id": parent, "timestamp": at_s, "input_length": 16,
        "output_length": 4, "type": "text", "turn": 1, "hash_ids": [chat],
    }  # fmt: skip


def test_a_request_without_a_session_is_one(written: Written) -> None:
    sessions = imported(written(mooncake(5000, 0, 1), mooncake(7500, 0)))
    assert sessions == [
        Session("t1", (Turn(None, 9, 0.0, (0, 1), 1024),), start_s=0.0, block_size=512),
        Session("t2", (Turn(None, 9, 0.0, (0,), 512),), start_s=2.5, block_size=512),
    ]


def test_turns_of_a_session_are_put_together_from_all_over_the_file(written: Written) -> None:
    first, second = imported(
        written(
            mooncake(1000, 0, session_id="a"),
            mooncake(2000, 5, session_id="b"),
            mooncake(4000, 0, 1, session_id="a"),
            mooncake(None, 5, 6, session_id="b", delay=250),
            mooncake(9000, 5, 6, 7, session_id="b", delay=500),
        )
    )
    assert [turn.blocks for turn in first.turns] == [(0,), (0, 1)]
    assert [turn.blocks for turn in second.turns] == [(5,), (5, 6), (5, 6, 7)]
    assert (first.start_s, second.start_s) == (0.0, 1.0)
    assert [turn.think_s for turn in first.turns] == [0.0, 3.0]
    assert [turn.think_s for turn in second.turns] == [0.0, 0.25, 0.5]


def test_chats_follow_their_parents_and_a_branch_is_a_session(written: Written) -> None:
    lines = [
        bailian(1, -1, 10), bailian(2, -1, 11), bailian(3, 1, 12), bailian(4, 3, 15),
        bailian(5, 3, 16), bailian(6, 99, 17),
    ]  # fmt: skip
    sessions = imported(written(*lines))
    turns = [[turn.blocks for turn in session.turns] for session in sessions]
    assert turns == [[(1,), (3,), (4,)], [(2,)], [(5,)], [(6,)]]
    assert [session.start_s for session in sessions] == [0.0, 1.0, 6.0, 7.0]
    assert [turn.think_s for turn in sessions[0].turns] == [0.0, 2.0, 3.0]


def test_where_contents_are_not_told_no_block_occurs_twice(written: Written) -> None:
    path = written("Timestamp,Request tokens,Response tokens", "5,600,0", "8,512,7", name="b.csv")
    first, second = imported(path)
    assert (first.turns[0].input_tokens, second.turns[0].input_tokens) == (600, 512)
    blocks = [*(first.turns[0].blocks or ()), *(second.turns[0].blocks or ())]
    assert len(set(blocks)) == len(blocks) == 3
    assert (first.turns[0].max_tokens, second.start_s) == (1, 3.0)


def test_a_limit_counts_requests(written: Written) -> None:
    path = written(*(mooncake(1000 * at, at, session_id="a") for at in range(9)))
    assert [len(session.turns) for session in imported(path, limit=4)] == [4]


def test_malformed_lines_do_not_shift_the_others(written: Written) -> None:
    lines = ["{", mooncake(0, 1), "", mooncake(0, 2, output_length=-1), mooncake(0, 3)]
    problems = Problems()
    sessions = list(import_sessions(Trace(written(*lines)), problems))
    assert [session.turns[0].blocks for session in sessions] == [(1,), (3,)]
    assert [str(error).split(": ")[0].rpartition(":")[2] for error in problems.first] == ["1", "4"]


def test_imported_sessions_are_read_back_and_have_the_same_blocks(
    written: Written, tmp_path: Path
) -> None:
    path = written(*(mooncake(1000 * at, 0, at + 1, session_id=at % 3) for at in range(9)))
    sessions = imported(path)
    dump_sessions(sessions, tmp_path / "out.jsonl")
    assert load_sessions(tmp_path / "out.jsonl") == sessions
    before, after = (
        trace_stats(workload.requests, workload.block_size)
        for workload in (
            workload_of(Trace(file), Problems(strict=True), None, None)
            for file in (path, tmp_path / "out.jsonl")
        )
    )
    assert before == after
    assert before.ceiling_blocks == 8 / 18


def test_requests_in_one_array_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps([mooncake(0, 1), mooncake(10, 1, 2)]))
    with pytest.raises(ReplayError, match=r"one JSON array[\s\S]*jq -c '\.\[\]'"):
        imported(path)


def test_sessions_of_other_block_sizes_are_not_mixed(tmp_path: Path) -> None:
    turns = (Turn(None, 1, 0.0, (1,), 5),)
    dump_sessions(
        [Session("a", turns, block_size=16), Session("b", turns, block_size=512)], tmp_path / "x"
    )
    workload = workload_of(Trace(tmp_path / "x"), Problems(), None, None)
    with pytest.raises(ReplayError, match="session b: its block_size is 512"):
        list(workload.requests)


def part(path: Path, **options: float) -> list[str]:
    trace = Trace(path)
    made = b"".join(slice_trace(trace, Problems(strict=True), **options))  # type: ignore[arg-type]
    return made.decode().splitlines()


def test_a_part_is_made_of_the_very_lines(written: Written) -> None:
    path = written(*(mooncake(60_000 + 1000 * at, at) for at in range(10)))
    lines = path.read_text().splitlines()
    assert part(path, from_s=2, to_s=5) == lines[2:5]
    assert part(path, from_s=2, limit=2) == lines[2:4]
    assert part(path) == lines
    with pytest.raises(ReplayError, match="no request is in this part"):
        part(path, from_s=10)


def test_a_part_of_a_table_keeps_its_header(written: Written) -> None:
    path = written("Timestamp,Request tokens,Response tokens", "5,6,7", "6,6,7", name="b.csv")
    assert part(path, from_s=1) == ["Timestamp,Request tokens,Response tokens", "6,6,7"]


def test_a_part_of_sessions_begins_at_0(written: Written, tmp_path: Path) -> None:
    sessions = [Session(f"s{at}", (Turn("Hi.", 1),), start_s=float(at)) for at in range(5)]
    dump_sessions(sessions, tmp_path / "in")
    (tmp_path / "out").write_text("\n".join(part(tmp_path / "in", from_s=2)))
    cut = load_sessions(tmp_path / "out")
    assert [(session.session, session.start_s) for session in cut] == [
        ("s2", 0.0), ("s3", 1.0), ("s4", 2.0),
    ]  # fmt: skip


@pytest.mark.parametrize("work", ["stats", "import", "slice"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, work: str) -> None:
    def peak_bytes(requests: int) -> int:
        path = tmp_path / f"{requests}.jsonl"
        with path.open("w") as file:
            for at in range(requests):
                blocks = [0, *range(60 * at + 1, 60 * at + 60)]
                ids = ", ".join(map(str, blocks))
                file.write(
                    f'{{"timestamp": {at}, "input_length": {512 * 60}, "output_length": 9, '
                    f'"hash_ids": [{ids}]}}\n'
                )
        tracemalloc.start()
        trace, problems = Trace(path), Problems(strict=True)
        if work == "stats":
            requests_of = (request for _, request in trace.requests(problems))
            # The optimum is left out as it is for any file that is large.
            trace_stats(requests_of, 512, [1000], optimal_most=0)
        elif work == "import":
            for _ in import_sessions(trace, problems):
                pass
        else:
            for _ in slice_trace(trace, problems):
                pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    small, large = peak_bytes(400), peak_bytes(2000)
    # A byte a block, and 24 a request; the files are 0.2 and 1 MB.
    assert large - small < 1600 * 60 * 2 + 1600 * 32
