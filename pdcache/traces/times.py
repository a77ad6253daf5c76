"""When sessions begin and how long their users think, where nothing tells it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random

from pdcache.replay.sessions import Session
from pdcache.traces.distributions import Distribution


def with_times(
    sessions: Iterable[Session], arrivals: Distribution, think: Distribution, seed: int
) -> Iterator[Session]:
    """Sessions of texts, which tell no times, with times drawn.

    Args:
        sessions: begun one after the other.
        arrivals: seconds between the starts of two sessions; times are rounded to milliseconds.
        think: seconds before each turn but the first.
        seed: another seed draws other times.
    """
    start_s = 0.0
    for number, session in enumerate(sessions):
        rng = Random(f"{seed}:times:{number}")
        first, *later = session.turns
        turns = (first, *(replace(turn, think_s=round(think.draw(rng), 3)) for turn in later))
        yield replace(session, start_s=round(start_s, 3), turns=turns)
        start_s += arrivals.draw(rng)
