"""When sessions begin in an open loop: as the trace says, or at a rate of our own."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

from pdcache.errors import ReplayError
from pdcache.replay.sessions import Session

Kind = Literal["trace", "poisson", "constant"]


@dataclass(frozen=True)
class Arrivals:
    """How sessions arrive, whether or not the target keeps up.

    Attributes:
        kind: `trace` (the sessions' `start_s`), `poisson` or `constant`.
        rate: sessions a second, of the latter two.
    """

    kind: Kind
    rate: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Arrivals:
        """Read `trace`, `poisson:RATE` or `constant:RATE`.

        Raises:
            ReplayError: it is none of them.
        """
        name, colon, number = text.partition(":")
        try:
            rate = float(number) if colon else 0.0
        except ValueError:
            rate = -1.0
        if name == "trace" and not colon:
            return cls("trace")
        if name in ("poisson", "constant") and 0 < rate < 1e6:
            return cls("poisson" if name == "poisson" else "constant", rate)
        raise ReplayError(
            f"there are no arrivals {text!r}.",
            where="--arrivals",
            remedy="Give trace, poisson:RATE or constant:RATE, in sessions a second.",
        )

    def due(
        self, sessions: Sequence[Session], *, time_scale: float = 1.0, seed: int = 0
    ) -> list[tuple[float, Session]]:
        """Each session with the seconds after which it begins, in order of time.

        `time_scale` stretches the times of a trace: 0.5 is twice as fast. Sessions of equal
        `start_s` keep their order; at a rate of our own, the order is that of `start_s` too.
        """
        ordered = sorted(sessions, key=lambda session: session.start_s)
        if self.kind == "trace":
            return [(session.start_s * time_scale, session) for session in ordered]
        return list(zip(self._times(seed), ordered, strict=False))

    def _times(self, seed: int) -> Iterator[float]:
        """The first session of a Poisson process is a gap away from the start, as the others."""
        if self.kind == "constant":
            yield from (number / self.rate for number in count())
        own = random.Random(seed)
        at_s = 0.0
        while True:
            at_s += own.expovariate(self.rate)
            yield at_s
