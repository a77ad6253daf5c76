from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from pdcache.errors import ReplayError
from pdcache.replay import dump_sessions, generate_chat
from pdcache.traces.distributions import Distribution


def digest(tmp_path: Path, **options: Any) -> str:
    dump_sessions(generate_chat(**options), tmp_path / "chat.jsonl")
    return hashlib.sha256((tmp_path / "chat.jsonl").read_bytes()).hexdigest()


def test_a_seed_gives_the_same_text_on_every_machine(tmp_path: Path) -> None:
    pinned = "6c6090b493618ac7ef2b005b1ed365b06571a792f7cd162244e5042d2138494a"
    assert digest(tmp_path, seed=7, shared_system_words=30) == pinned


def test_another_seed_gives_other_text(tmp_path: Path) -> None:
    assert digest(tmp_path, seed=1) != digest(tmp_path, seed=2)


def test_texts_have_the_words_asked_for() -> None:
    chat = generate_chat(
        sessions=3, turns=3, first_words=101, question_words=13, shared_system_words=17, think_s=2
    )
    assert [session.session for session in chat] == ["s1", "s2", "s3"]
    for session in chat:
        assert session.system is not None
        assert len(session.system.split()) == 17
        assert [len(turn.user.split()) for turn in session.turns] == [101, 13, 13]
        assert [turn.think_s for turn in session.turns] == [0.0, 2.0, 2.0]


def test_sessions_share_the_system_prompt_and_no_opening() -> None:
    chat = generate_chat(sessions=1000, turns=1, first_words=5, shared_system_words=20)
    assert len({session.system for session in chat}) == 1
    assert len({tuple(session.turns[0].user.split()[:3]) for session in chat}) == 1000


def test_a_session_does_not_depend_on_how_many_follow() -> None:
    assert generate_chat(sessions=2) == generate_chat(sessions=5)[:2]


def test_without_system_words_there_is_no_system_prompt() -> None:
    assert generate_chat(sessions=1)[0].system is None


@pytest.mark.parametrize(
    "options",
    [{"sessions": 0}, {"turns": 0}, {"first_words": 2}, {"think_s": -1}],
)
def test_a_number_out_of_range_is_named(options: dict[str, int]) -> None:
    with pytest.raises(ReplayError, match=next(iter(options))):
        generate_chat(**options)


def test_sizes_may_be_drawn() -> None:
    sizes = Distribution.parse("uniform:low=5,high=30")
    chat = generate_chat(sessions=30, turns=Distribution.parse("zipf:alpha=1,max=6"),
                         question_words=sizes, answer_tokens=sizes)  # fmt: skip
    turns = [turn for session in chat for turn in session.turns]
    assert {len(session.turns) for session in chat} == {1, 2, 3, 4, 5, 6}
    assert {turn.max_tokens for turn in turns} <= set(range(5, 31))
    assert len({turn.max_tokens for turn in turns}) > 10
    assert all(5 <= len((turn.user or "").split()) <= 30 for turn in turns if turn.think_s)
