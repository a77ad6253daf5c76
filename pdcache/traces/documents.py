"""Questions on long documents, each of which several sessions ask about."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from pdcache.errors import ReplayError
from pdcache.replay.sessions import Session, Turn
from pdcache.traces.distributions import Distribution, drawn
from pdcache.traces.prose import openings, prose


def generate_documents(
    sessions: int,
    turns: int | Distribution = 3,
    *,
    documents: int = 10,
    popularity: float = 1.0,
    document_words: int | Distribution = 3000,
    question_words: int | Distribution = 25,
    answer_tokens: int | Distribution = 150,
    seed: int = 0,
) -> Iterator[Session]:
    """Make sessions that begin with a document and a question on it.

    Args:
        sessions: how many, named d1, d2, ...
        turns: questions a session.
        documents: different documents.
        popularity: exponent of Zipf's law by which a session chooses its document; 0 for all
            alike.
        document_words: words of a document, 3 or more.
        question_words: words of a question.
        answer_tokens: tokens of an answer.
        seed: another seed gives other texts.

    Raises:
        ReplayError: there is no session or no document to make, or `popularity` is out of range.
    """
    for name, value in (("sessions", sessions), ("documents", documents)):
        if value < 1:
            raise ReplayError(f"{name} is {value}.", where=name, remedy="Give 1 or more.")
    choice = Distribution.parse(f"zipf:alpha={popularity},max={documents}", "popularity")
    beginnings = openings(seed, documents)
    for index in range(sessions):
        rng = Random(f"{seed}:reader:{index}")
        chosen = choice.whole(rng) - 1
        # Made anew for every session, so that not all documents are held at a time.
        text = Random(f"{seed}:document:{chosen}")
        words = drawn(document_words, text, low=3)
        document = prose(text, words, ".", opening=beginnings[chosen])
        made = []
        for turn in range(drawn(turns, rng)):
            question = prose(rng, drawn(question_words, rng), "?")
            asked = f"{document}\n\n{question}" if turn == 0 else question
            made.append(Turn(asked, drawn(answer_tokens, rng)))
        yield Session(f"d{index + 1}", tuple(made))
