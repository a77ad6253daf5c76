"""Text that reads like English, the same for a seed on every machine."""

from __future__ import annotations

import random

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


def openings(seed: int, number: int) -> list[tuple[str, ...]]:
    """The first `number` beginnings of texts in an order of the seed; no two are alike."""
    pairs = [(adjective.capitalize(), noun) for adjective in _ADJECTIVES for noun in _NOUNS]
    rng = random.Random(f"{seed}:openings")
    shuffled = [pair for _, pair in sorted((rng.random(), pair) for pair in pairs)]
    rounds = [divmod(index, len(shuffled)) for index in range(number)]
    return [(*shuffled[at], str(again + 1)) if again else shuffled[at] for again, at in rounds]


def prose(
    rng: random.Random, words: int, end: str, *, opening: tuple[str, ...] | None = None
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
