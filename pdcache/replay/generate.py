"""Chats made from a seed, the same on every machine."""

from __future__ import annotations

import random

from pdcache.errors import ReplayError
from pdcache.replay.sessions import Session, Turn
from pdcache.traces.distributions import Distribution, drawn
from pdcache.traces.prose import openings, prose


def generate_chat(
    sessions: int = 4,
    turns: int | Distribution = 4,
    *,
    first_words: int | Distribution = 450,
    question_words: int | Distribution = 45,
    answer_tokens: int | Distribution = 128,
    shared_system_words: int = 0,
    think_s: float = 3.0,
    seed: int = 0,
) -> list[Session]:
    """Make chats that read like English.

    The first three words of a session's first question are no other session's, so two sessions
    share KV through the system prompt only, and through what the chat template puts first.

    Args:
        sessions: how many, named s1, s2, ...; a session does not depend on how many follow.
        turns: turns a session.
        first_words: words of the first question, 3 or more.
        question_words: words of each later question.
        answer_tokens: tokens of each answer.
        shared_system_words: words of the system prompt that all sessions share; 0 for none.
        think_s: seconds between an answer and the next question.
        seed: another seed gives other texts.

    Raises:
        ReplayError: for a number out of range.
    """
    for name, value, low in (
        ("sessions", sessions, 1),
        ("turns", turns, 1),
        ("first_words", first_words, 3),
        ("question_words", question_words, 1),
        ("answer_tokens", answer_tokens, 1),
        ("shared_system_words", shared_system_words, 0),
        ("think_s", think_s, 0),
    ):
        if not isinstance(value, Distribution) and value < low:
            raise ReplayError(
                f"{name} is {value}.", where=name, remedy=f"Give a number from {low}."
            )
    system = None
    if shared_system_words:
        system = prose(random.Random(f"{seed}:system"), shared_system_words, ".")
    made = []
    for index, opening in enumerate(openings(seed, sessions)):
        rng, sizes = random.Random(f"{seed}:{index}"), random.Random(f"{seed}:{index}:sizes")
        made_turns = []
        for turn in range(drawn(turns, sizes)):
            if turn == 0:
                text = prose(rng, drawn(first_words, sizes, low=3), "?", opening=opening)
            else:
                text = prose(rng, drawn(question_words, sizes), "?")
            pause_s = float(think_s) if turn else 0.0
            made_turns.append(Turn(text, drawn(answer_tokens, sizes), pause_s))
        made.append(Session(f"s{index + 1}", tuple(made_turns), system))
    return made
