"""What a replay is told, and what it tells while it runs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pdcache.errors import ReplayError
from pdcache.replay.arrivals import Arrivals
from pdcache.replay.ceiling import CacheMode
from pdcache.replay.dialects import SGLANG, Dialect
from pdcache.replay.dialogue import ChatTokenizer
from pdcache.replay.records import RequestRecord
from pdcache.replay.sessions import Session


@dataclass(frozen=True)
class Warmup:
    """What comes before the steady-state window; the larger of both counts.

    Attributes:
        requests: the first so many that are sent.
        seconds: all that are sent before.
    """

    requests: int = 0
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Warmup:
        """Read a number of requests, or seconds as `30s`.

        Raises:
            ReplayError: it is neither.
        """
        try:
            warmup = cls(seconds=float(text[:-1])) if text.endswith("s") else cls(int(text))
            if warmup.requests >= 0 and 0 <= warmup.seconds < 1e9:
                return warmup
        except ValueError:
            pass
        raise ReplayError(
            f"{text!r} is no warm-up.",
            where="--warmup",
            remedy="Give a number of requests, or seconds as 30s.",
        )


@dataclass(frozen=True)
class ReplaySpec:
    """What to replay.

    Attributes:
        sessions: begun in the order of `start_s`, then as listed.
        tokenizer: of the model that the target serves.
        page_size: tokens a page on the target.
        mode: what the ceiling counts.
        dialect: how the target is spoken to.
        concurrency: sessions at a time in a closed loop; of no matter in an open loop.
        arrivals: of an open loop; None for a closed loop.
        time_scale: seconds of the replay a second of the workload, of starts and think times.
        seed: of random arrivals.
        warmup: what comes before the steady-state window.
        timeout_s: limit in seconds of one request, and of one call of `before_turn`.
        give_up_s: seconds that the target may be gone before no more is sent.
        context_tokens: longest prompt and answer together that the model takes; None: unknown.
        reuse: False gives every request a cache salt of its own, so that it is computed from its
            first token.
        extra_body: further keys of every request's body; null removes one of the client's own.
        headers: further headers of every request, for example a gateway's key.
        workers: names of workers by the addresses that answers tell, for the records.
    """

    sessions: Sequence[Session]
    tokenizer: ChatTokenizer
    page_size: int
    mode: CacheMode
    dialect: Dialect = SGLANG
    concurrency: int = 2
    arrivals: Arrivals | None = None
    time_scale: float = 1.0
    seed: int = 0
    warmup: Warmup = Warmup()
    timeout_s: float = 600.0
    give_up_s: float = 30.0
    context_tokens: int | None = None
    reuse: bool = True
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    workers: Mapping[str, str] = field(default_factory=dict)

    @property
    def planned(self) -> int:
        """Turns of all sessions."""
        return sum(len(session.turns) for session in self.sessions)


@dataclass(frozen=True)
class ReplayStarted:
    """The target answers; of `requests` turns, `done` have an answer of an earlier run."""

    requests: int
    done: int = 0


@dataclass(frozen=True)
class TurnSent:
    """A request is on its way."""

    session: str
    turn: int


@dataclass(frozen=True)
class TurnDone:
    """A request has ended, well or not; `not_sent` turns of its session fall away with it.

    `sent` is False for a turn that failed before it could be sent.
    """

    record: RequestRecord
    not_sent: int
    sent: bool = True


ReplayEvent = ReplayStarted | TurnSent | TurnDone
OnEvent = Callable[[ReplayEvent], None]
BeforeTurn = Callable[[str, int], Awaitable[None]]


def check_spec(spec: ReplaySpec) -> None:
    """Refuse a spec that cannot be run.

    Raises:
        ReplayError: naming the field and the remedy.
    """
    names = [session.session for session in spec.sessions]
    seconds = "Give seconds above 0."
    for wrong, message, remedy in (
        (not names, "there is no session.", "Give at least one."),
        (len(set(names)) < len(names), "two sessions share a name.", "Name each session."),
        (spec.concurrency < 1, f"concurrency is {spec.concurrency}.", "Give 1 or more."),
        (spec.timeout_s <= 0, f"timeout_s is {spec.timeout_s}.", seconds),
        (spec.time_scale <= 0, f"time_scale is {spec.time_scale}.", "Give a number above 0."),
    ):
        if wrong:
            raise ReplayError(message, where="replay", remedy=remedy)
    try:
        json.dumps(dict(spec.extra_body))
    except TypeError as cause:
        raise ReplayError(
            f"extra_body is not JSON: {cause}.", where="replay", remedy="Use JSON values only."
        ) from cause
