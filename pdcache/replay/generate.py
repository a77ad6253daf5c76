"""Sessions made from a seed, the same on every machine."""

from __future__ import annotations

import random

from pdcache.errors import ReplayError
from pdcache.replay.sessions import Session, Turn

# fmt: off
_ADJECTIVES = (
    "quiet", "amber", "early", "broad", "careful", "distant", "steady", "narrow", "silver",
    "patient", "shallow", "bright", "hollow", "northern", "gentle", "wooden", "rapid",
    "copper", "humid", "ancient",
)
_NOUNS = (
    "harbour", "engine", "garden", "ledger", "valley", "bridge", "lantern", "market", "river",
    "orchard", "station", "library", "glacier", "workshop", "railway", "island", "compass",
    "archive", "meadow", "furnace",
)
_VERBS = (
    "follows", "measures", "repairs", "describes", "crosses", "supplies", "records",
    "surrounds", "replaces", "guides", "carries", "outlasts",
)
_PLACES = ("near", "behind", "beyond", "above", "beside", "under")
# fmt: on


def generate_chat(
    sessions: int = 4,
    turns: int = 4,
    *,
    first_words: int = 450,
    question_words: int = 45,
    answer_tokens: int = 128,
    shared_system_words: int = 0,
    think_s: float = 3.0,
    seed: int = 0,
) -> list[Session]:
    """Make chats that read like English.

    The first two words of a session's first question are no other session's, so two sessions
    share KV through the system prompt only, and through what the chat template puts first.

    Args:
        sessions: how many, named s1, s2, ...; a session does not depend on how many follow.
        turns: turns a session.
        first_words: words of the first question.
        question_words: words of each later question.
        answer_tokens: tokens of each answer.
        shared_system_words: words of the system prompt that all sessions share; 0 for none.
        think_s: seconds between an answer and the next question.
        seed: another seed gives other texts.

    Raises:
        ReplayError: for a number out of range.
    """
    most = len(_ADJECTIVES) * len(_NOUNS)
    for name, value, low, high in (
        ("sessions", sessions, 1, most),
        ("turns", turns, 1, None),
        ("first_words", first_words, 2, None),
        ("question_words", question_words, 1, None),
        ("answer_tokens", answer_tokens, 1, None),
        ("shared_system_words", shared_system_words, 0, None),
        ("think_s", think_s, 0, None),
    ):
        if value < low or (high is not None and value > high):
            span = f"from {low}" if high is None else f"from {low} to {high}"
            raise ReplayError(f"{name} is {value}.", where=name, remedy=f"Give a number {span}.")
    openings = _shuffled(_openings(), random.Random(f"{seed}:openings"))
    system = None
    if shared_system_words:
        system = _prose(random.Random(f"{seed}:system"), shared_system_words, ".")
    made = []
    for index in range(sessions):
        rng = random.Random(f"{seed}:{index}")
        first = _prose(rng, first_words, "?", opening=openings[index])
        later = [_prose(rng, question_words, "?") for _ in range(turns - 1)]
        made.append(
            Session(
                session=f"s{index + 1}",
                system=system,
                turns=(
                    Turn(first, answer_tokens),
                    *(Turn(text, answer_tokens, float(think_s)) for text in later),
                ),
            )
        )
    return made


def _openings() -> list[tuple[str, str]]:
    return [(adjective.capitalize(), noun) for adjective in _ADJECTIVES for noun in _NOUNS]


def _prose(
    rng: random.Random, words: int, end: str, *, opening: tuple[str, str] | None = None
) -> str:
    """Exactly `words` words in sentences; the last one ends with `end`."""
    text: list[str] = []
    while len(text) < words:
        subject = opening if opening and not text else ("The", _pick(rng, _NOUNS))
        sentence = [
            *subject,
            _pick(rng, _VERBS),
            "the",
            _pick(rng, _ADJECTIVES),
            _pick(rng, _NOUNS),
            _pick(rng, _PLACES),
            "the",
            _pick(rng, _NOUNS),
        ]
        text += [*sentence[:-1], sentence[-1] + "."]
    text = text[:words]
    return " ".join(text).rstrip(".") + end


# Random.random() is the one draw whose sequence Python promises to keep between versions.
def _pick(rng: random.Random, of: tuple[str, ...]) -> str:
    return of[int(rng.random() * len(of))]


def _shuffled(pairs: list[tuple[str, str]], rng: random.Random) -> list[tuple[str, str]]:
    return [pair for _, pair in sorted((rng.random(), pair) for pair in pairs)]
