"""What a replay is told, and what it tells while it runs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pdcache.errors import ReplayError
from pdcache.replay.ceiling import CacheMode
from pdcache.replay.dialogue import ChatTokenizer
from pdcache.replay.records import RequestRecord
from pdcache.replay.sessions import Session


@dataclass(frozen=True)
class ReplaySpec:
    """What to replay.

    Attributes:
        sessions: begun in the order of `start_s`, then as listed.
        tokenizer: of the model that the target serves.
        page_size: tokens a page on the target.
        mode: what the ceiling counts.
        concurrency: sessions at a time.
        timeout_s: limit in seconds of one request, and of one call of `before_turn`.
        extra_body: further keys of every request's body.
        headers: further headers of every request, for example a gateway's key.
    """

    sessions: Sequence[Session]
    tokenizer: ChatTokenizer
    page_size: int
    mode: CacheMode
    concurrency: int = 2
    timeout_s: float = 600.0
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class ReplayStarted:
    """The target answers; `requests` are to be sent."""

    requests: int


@dataclass(frozen=True)
class TurnSent:
    """A request is on its way."""

    session: str
    turn: int


@dataclass(frozen=True)
class TurnDone:
    """A request has ended, well or not; `not_sent` turns of its session fall away with it."""

    record: RequestRecord
    not_sent: int


ReplayEvent = ReplayStarted | TurnSent | TurnDone
OnEvent = Callable[[ReplayEvent], None]
BeforeTurn = Callable[[str, int], Awaitable[None]]


def check_spec(spec: ReplaySpec) -> None:
    """Refuse a spec that cannot be run.

    Raises:
        ReplayError: naming the field and the remedy.
    """
    names = [session.session for session in spec.sessions]
    for wrong, message, remedy in (
        (not names, "there is no session.", "Give at least one."),
        (len(set(names)) < len(names), "two sessions share a name.", "Name each session."),
        (spec.concurrency < 1, f"concurrency is {spec.concurrency}.", "Give 1 or more."),
        (spec.timeout_s <= 0, f"timeout_s is {spec.timeout_s}.", "Give seconds above 0."),
    ):
        if wrong:
            raise ReplayError(message, where="replay", remedy=remedy)
    try:
        json.dumps(dict(spec.extra_body))
    except TypeError as cause:
        raise ReplayError(
            f"extra_body is not JSON: {cause}.", where="replay", remedy="Use JSON values only."
        ) from cause
