"""Agents: a task, then the output of one tool after the other on top of a growing context."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from pdcache.errors import ReplayError
from pdcache.replay.sessions import Session, Turn
from pdcache.traces.distributions import Distribution, drawn
from pdcache.traces.prose import openings, prose


def generate_agents(
    sessions: int,
    turns: int | Distribution = 8,
    *,
    system_words: int = 600,
    task_words: int | Distribution = 60,
    tool_words: int | Distribution = 400,
    call_tokens: int | Distribution = 40,
    answer_tokens: int | Distribution = 200,
    seed: int = 0,
) -> Iterator[Session]:
    """Make sessions in which an agent calls a tool in every answer but the last.

    Args:
        sessions: how many, named a1, a2, ...
        turns: turns a session: the task, then the outputs of tools.
        system_words: words of the system prompt with the tools, which all sessions share.
        task_words: words of the task, 3 or more, unlike any other session's.
        tool_words: words of a tool's output.
        call_tokens: tokens of an answer that calls a tool.
        answer_tokens: tokens of the last answer.
        seed: another seed gives other texts.

    Raises:
        ReplayError: there is no session to make.
    """
    if sessions < 1:
        raise ReplayError(f"sessions is {sessions}.", where="sessions", remedy="Give 1 or more.")
    system = prose(Random(f"{seed}:tools"), system_words, ".") if system_words else None
    for index, opening in enumerate(openings(seed, sessions)):
        rng = Random(f"{seed}:agent:{index}")
        number = drawn(turns, rng)
        made = []
        for turn in range(number):
            if turn == 0:
                text = prose(rng, drawn(task_words, rng, low=3), ".", opening=opening)
            else:
                text = f"Output {turn}: " + prose(rng, drawn(tool_words, rng), ".")
            last = turn == number - 1
            made.append(Turn(text, drawn(answer_tokens if last else call_tokens, rng)))
        yield Session(f"a{index + 1}", tuple(made), system)
