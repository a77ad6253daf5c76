from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pdcache.errors import ReplayError
from pdcache.replay import Session, Turn, dump_sessions, load_sessions
from pdcache.replay.sessions import read_sessions

BLOCKS: dict[str, Any] = {
    "session": "t1", "block_size": 512,
    "turns": [{"blocks": [0, 7], "input_tokens": 600, "max_tokens": 8}],
}  # fmt: skip
GOOD = {"session": "s1", "turns": [{"user": "Hello.", "max_tokens": 8}]}


def blocks(**fields: object) -> dict[str, object]:
    return {**BLOCKS, "turns": [{**BLOCKS["turns"][0], **fields}]}


def loading(tmp_path: Path, *lines: object) -> list[Session]:
    path = tmp_path / "sessions.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n")
    return load_sessions(path)


def test_a_line_is_a_session_and_absent_keys_have_defaults(tmp_path: Path) -> None:
    assert loading(tmp_path, GOOD, "") == [Session("s1", (Turn("Hello.", 8, 0.0),), None, 0.0)]


def test_what_is_dumped_is_loaded_back(tmp_path: Path) -> None:
    sessions = [
        Session("s1", (Turn("Grüße.\u2028", 8), Turn("And?", 9, 1.5)), "Be brief.", 2.5),
        Session("s2", (Turn("Hello.", 1),)),
        Session(
            "t1",
            (Turn(None, 8, 0.0, (0, 7), 600), Turn(None, 9, 2.0, (0, 7, 8), 1100)),
            start_s=3.0,
            block_size=512,
        ),
    ]
    dump_sessions(sessions, tmp_path / "out.jsonl")
    assert load_sessions(tmp_path / "out.jsonl") == sessions


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ({**GOOD, "sytem": "x"}, "Did you mean 'system'?"),
        ({"turns": GOOD["turns"]}, "'session' is missing"),
        ({**GOOD, "session": "a\nb"}, "HTTP header"),
        ({**GOOD, "session": "größe"}, "HTTP header"),
        ({**GOOD, "system": 3}, "'system' is 3"),
        ({**GOOD, "turns": []}, "'turns'"),
        ({**GOOD, "turns": ["hi"]}, "turns[0]: the turn is not an object"),
        ({**GOOD, "turns": [{"user": "hi", "maxtokens": 3}]}, "Did you mean 'max_tokens'?"),
        ({**GOOD, "turns": [{"user": "", "max_tokens": 3}]}, "turns[0]: 'user' is ''"),
        ({**GOOD, "turns": [{"user": "hi", "max_tokens": 0}]}, "'max_tokens' is 0"),
        ({**GOOD, "turns": [{"user": "hi", "max_tokens": True}]}, "'max_tokens' is True"),
        ({**GOOD, "turns": [{"user": "hi"}]}, "'max_tokens' is missing"),
        ({**GOOD, "start_s": -1}, "'start_s' is -1"),
        ('{"session": "s", "start_s": NaN, "turns": [{"user": "a", "max_tokens": 1}]}', "nan"),
        ({**BLOCKS, "block_size": 0}, "'block_size' is 0"),
        ({**BLOCKS, "block_size": 200}, "600 tokens take 3 blocks of 200, not 2"),
        ({**BLOCKS, "system": "Be brief."}, "'system' stands beside"),
        ({**GOOD, "block_size": 64}, "the key 'user' is unknown"),
        ({**GOOD, "turns": BLOCKS["turns"]}, "the key 'blocks' is unknown"),
        (blocks(blocks=[0]), "600 tokens take 2 blocks of 512, not 1"),
        (blocks(blocks=[]), "'blocks' is []"),
        (blocks(blocks=[0, -1]), "'blocks[1]' is -1"),
        (blocks(blocks=[0, 1.0]), "'blocks[1]' is 1.0"),
        (blocks(blocks=[True, 1]), "'blocks[0]' is True"),
        (blocks(blocks=[0, 2**63]), "below 2**63"),
        (blocks(input_tokens=None), "'input_tokens' is None"),
        (GOOD, "taken by an earlier line"),
    ],
)
def test_a_bad_line_is_named_with_its_remedy(tmp_path: Path, line: object, says: str) -> None:
    with pytest.raises(ReplayError) as caught:
        loading(tmp_path, GOOD, line)
    assert f"{tmp_path}/sessions.jsonl:2" in str(caught.value)
    assert says in str(caught.value)
    assert caught.value.remedy


def test_blocks_stand_for_the_whole_prompt(tmp_path: Path) -> None:
    turn = Turn(None, 8, 0.0, (0, 7), 600)
    assert loading(tmp_path, BLOCKS) == [Session("t1", (turn,), block_size=512)]


def test_sessions_are_read_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "sessions.jsonl"
    path.write_text(json.dumps(GOOD) + "\nnot read yet\n")
    reading = read_sessions(path)
    assert next(reading).session == "s1"
    with pytest.raises(ReplayError, match=r"sessions\.jsonl:2"):
        next(reading)


def test_a_missing_or_empty_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="cannot read"):
        load_sessions(tmp_path / "none.jsonl")
    with pytest.raises(ReplayError, match="no session"):
        loading(tmp_path, "")
