from __future__ import annotations

import json
from pathlib import Path

import pytest
from trace_lines import Written

from pdcache.errors import ReplayError
from pdcache.replay import Session, Turn
from pdcache.traces.items import read_items
from pdcache.traces.problems import Problems
from pdcache.traces.request import TraceRequest
from pdcache.traces.trace import Trace

MOONCAKE = {"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [0, 7]}
BAILIAN = {
    "chat_id": 7, "parent_chat_id": 3, "timestamp": 61.5, "input_length": 33, "output_length": 12,
    "type": "text", "turn": 2, "hash_ids": [9, 10, 11],
}  # fmt: skip
SHAREGPT = {
    "id": "x",
    "conversations": [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hello?"},
        {"from": "gpt", "value": "Good day to you."},
        {"from": "human", "value": "And?"},
        {"from": "gpt", "value": "!"},
    ],
}
MESSAGES = {
    "messages": [
        {"role": "assistant", "content": "How can I help?"},
        {"role": "user", "content": [{"type": "text", "text": "Hello?"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "It rains."},
    ],
    "max_tokens": 77,
}
NATIVE = {"session": "s1", "turns": [{"user": "Hello.", "max_tokens": 8}]}
BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"


def values(path: Path, **options: int | str) -> list[object]:
    trace = Trace(path, **options)  # type: ignore[arg-type]
    return [value for _, value in trace.entries(Problems(strict=True))]


def test_mooncake_times_are_milliseconds_and_blocks_512_tokens(written: Written) -> None:
    assert values(written(MOONCAKE)) == [TraceRequest(3.0, 600, 5, (0, 7))]


def test_mooncake_fields_have_other_names_too(written: Written) -> None:
    line = {
        "created_time": 3000, "input_tokens": 600, "output_tokens": 5, "hash_ids": [0, 7],
        "session_id": "a", "delay_ms": 1500,
    }  # fmt: skip
    assert values(written(line)) == [TraceRequest(3.0, 600, 5, (0, 7), "a", "a", 1.5)]


def test_a_later_turn_of_mooncake_needs_a_delay_only(written: Written) -> None:
    line = {"input_length": 6, "output_length": 5, "hash_ids": [1], "session_id": 4, "delay": 250}
    assert values(written(line)) == [TraceRequest(None, 6, 5, (1,), "4", "4", 0.25)]


def test_another_block_size_can_be_given(written: Written) -> None:
    path = written({**MOONCAKE, "hash_ids": [1, 2, 3]})
    assert values(path, block_size=256) == [TraceRequest(3.0, 600, 5, (1, 2, 3))]


def test_bailian_links_chats_and_has_seconds_and_blocks_of_16(written: Written) -> None:
    first = {**BAILIAN, "chat_id": 3, "parent_chat_id": -1}
    assert values(written(first, BAILIAN)) == [
        TraceRequest(61.5, 33, 12, (9, 10, 11), "3", None),
        TraceRequest(61.5, 33, 12, (9, 10, 11), "7", "3"),
    ]


def test_burstgpt_tells_arrivals_and_lengths(written: Written) -> None:
    path = written(BURSTGPT, "5,ChatGPT,472,18,490,Conversation log", "5.5,GPT-4,1,0,1,API log")
    assert values(path) == [TraceRequest(5.0, 472, 18), TraceRequest(5.5, 1, 0)]


def test_sharegpt_is_a_session_of_questions(written: Written) -> None:
    session = Session("d1", (Turn("Hello?", 4), Turn("And?", 1)), "Be brief.")
    assert values(written(SHAREGPT)) == [session]


@pytest.mark.parametrize("indent", [None, 2])
def test_sharegpt_may_be_one_array(written: Written, indent: int | None) -> None:
    path = written(json.dumps([SHAREGPT, SHAREGPT], indent=indent))
    assert [value.session for value in values(path)] == ["d1", "d2"]  # type: ignore[attr-defined]


def test_what_a_tool_says_is_the_next_question(written: Written) -> None:
    call = round(len(json.dumps([{"id": "1"}])) / 4)
    session = Session("d1", (Turn("Hello?", call), Turn("It rains.", 77)))
    assert values(written(MESSAGES)) == [session]


def test_sessions_of_our_own_are_a_format(written: Written) -> None:
    assert values(written(NATIVE)) == [Session("s1", (Turn("Hello.", 8),))]


@pytest.mark.parametrize(
    ("good", "bad", "says"),
    [
        (MOONCAKE, "{", "not JSON"),
        (MOONCAKE, "[1]", "not a JSON object"),
        (MOONCAKE, "\x00\xff", "not JSON"),
        (MOONCAKE, {**MOONCAKE, "timestamp": None}, "'timestamp' is None"),
        (MOONCAKE, {**MOONCAKE, "timestamp": "now"}, "'timestamp' is 'now'"),
        (MOONCAKE, {**MOONCAKE, "input_length": 0}, "'input_length' is 0"),
        (MOONCAKE, {**MOONCAKE, "input_length": 5000}, "take 10 blocks of 512, not 2"),
        (MOONCAKE, {**MOONCAKE, "output_length": -1}, "'output_length' is -1"),
        (MOONCAKE, {**MOONCAKE, "hash_ids": [0, "a"]}, "'hash_ids[1]' is 'a'"),
        (MOONCAKE, {**MOONCAKE, "hash_ids": {}}, "'hash_ids' is {}"),
        (MOONCAKE, {**MOONCAKE, "session_id": []}, "'session_id' is []"),
        (BAILIAN, {**BAILIAN, "parent_chat_id": "x"}, "'parent_chat_id' is 'x'"),
        (BAILIAN, {**BAILIAN, "hash_ids": [1]}, "take 3 blocks of 16, not 1"),
        (BURSTGPT, "soon,ChatGPT,472,18,490,x", "'Timestamp' is 'soon'"),
        (BURSTGPT, "5,ChatGPT,nan,18,490,x", "'Request tokens' is nan"),
        (BURSTGPT, "5,Chat\rGPT,472,18,490,x", "0 columns"),
        (BURSTGPT, "5,ChatGPT,18", "3 columns, the header 6"),
        (SHAREGPT, {"conversations": []}, "'conversations' is []"),
        (SHAREGPT, {"conversations": ["x"]}, "conversations[0]: the message is not an object"),
        (SHAREGPT, {"conversations": [{"from": "cat", "value": "x"}]}, "'from' is 'cat'"),
        (SHAREGPT, {"conversations": [{"from": "human", "value": 3}]}, "'value' is 3"),
        (SHAREGPT, {"conversations": [{"from": "gpt", "value": "x"}]}, "no question"),
        (NATIVE, NATIVE, "taken by an earlier line"),
        (NATIVE, {"session": "s2", "turns": []}, "'turns'"),
    ],
)
def test_a_malformed_line_is_counted_named_and_left_out(
    written: Written, good: object, bad: object, says: str
) -> None:
    path = written(good, bad, name="t")
    trace, problems = Trace(path), Problems()
    assert len(list(trace.entries(problems))) == (not trace.format.csv)
    assert problems.lines == 1
    assert str(problems.first[0]).startswith(f"{path}:2")
    assert says in str(problems.first[0])
    with pytest.raises(ReplayError) as caught:
        list(trace.entries(Problems(strict=True)))
    assert says in str(caught.value)


def test_only_the_first_problems_are_kept(written: Written) -> None:
    problems = Problems()
    assert len(list(Trace(written(MOONCAKE, *["{"] * 50)).entries(problems))) == 1
    assert (problems.lines, len(problems.first)) == (50, 10)


def test_an_unknown_or_empty_file_is_an_error(written: Written, tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"none that is known.*--format"):
        Trace(written({"prompt": "x"}))
    with pytest.raises(ReplayError, match="the trace is empty"):
        Trace(written("", " "))
    with pytest.raises(ReplayError, match="cannot read"):
        Trace(tmp_path / "none")
    with pytest.raises(ReplayError, match="no format 'x'"):
        Trace(written(MOONCAKE), "x")


def test_the_lines_of_elements_are_counted(written: Written) -> None:
    path = written('[ {"a": "\u00fc\\n]"},', "", '{"a":', '  [1, 2]}, {"a": 3}', "]")
    items = list(read_items(path, Problems(strict=True)))
    assert [(item.line, item.number) for item in items] == [(1, 1), (3, 2), (4, 3)]
    assert [json.loads(item.text)["a"] for item in items] == ["ü\n]", [1, 2], 3]


@pytest.mark.parametrize(
    ("lines", "place"),
    [(['[{"a": 1},', '{"a": 1 2}]'], 2), (['[{"a": 1},', '{"a": "'], 2), (['[{"a": 1}'], 2)],
)
def test_an_array_that_is_no_json_is_read_up_to_there(
    written: Written, lines: list[str], place: int
) -> None:
    path, problems = written(*lines), Problems()
    assert len(list(read_items(path, problems))) == 1
    assert problems.lines == 1
    assert f"{path}:{place}" in str(problems.first[0])
