from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdcache.errors import ReplayError
from pdcache.replay import Session, Turn, dump_sessions, load_sessions

GOOD = {"session": "s1", "turns": [{"user": "Hello.", "max_tokens": 8}]}


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
        (GOOD, "taken by an earlier line"),
    ],
)
def test_a_bad_line_is_named_with_its_remedy(tmp_path: Path, line: object, says: str) -> None:
    with pytest.raises(ReplayError) as caught:
        loading(tmp_path, GOOD, line)
    assert f"{tmp_path}/sessions.jsonl:2" in str(caught.value)
    assert says in str(caught.value)
    assert caught.value.remedy


def test_a_missing_or_empty_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="cannot read"):
        load_sessions(tmp_path / "none.jsonl")
    with pytest.raises(ReplayError, match="no session"):
        loading(tmp_path, "")
