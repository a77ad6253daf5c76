"""Goodput: requests that meet their promises, `--slo ttft=2s,tpot=100ms`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pdcache.errors import ReplayError
from pdcache.replay.records import RequestRecord

_PART = re.compile(r"(ttft|tpot)=(\d+(?:\.\d+)?|\.\d+)(ms|s)")


@dataclass(frozen=True)
class Slo:
    """Seconds that a request may take to its first token, and a token after it."""

    ttft_s: float | None = None
    tpot_s: float | None = None

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Read `ttft=2s,tpot=100ms`; either may be left out.

        Raises:
            ReplayError: it is something else.
        """
        limits: dict[str, float] = {}
        for part in text.replace(" ", "").split(","):
            found = _PART.fullmatch(part)
            if found is None or found[1] in limits:
                raise ReplayError(
                    f"{part!r} is no objective.",
                    where="--slo",
                    remedy="Write --slo ttft=2s,tpot=100ms, with s or ms.",
                )
            limits[found[1]] = float(found[2]) / (1000 if found[3] == "ms" else 1)
        return cls(limits.get("ttft"), limits.get("tpot"))

    def met_by(self, record: RequestRecord) -> bool:
        """Whether a request completed within both; an answer of one token has no time a token."""
        if record.error is not None:
            return False
        return _within(record.ttft_s, self.ttft_s, of_none=False) and _within(
            record.tpot_s, self.tpot_s, of_none=True
        )


def goodput(records: Sequence[RequestRecord], wall_s: float, slo: Slo | None) -> dict[str, Any]:
    """Completed requests and output tokens a second; with an SLO, the requests that meet it.

    `share_meeting_slo` is of all requests, failed ones among them.
    """
    done = [record for record in records if record.error is None]
    found: dict[str, Any] = {
        "requests_per_s": rate(len(done), wall_s),
        "output_tokens_per_s": rate(sum(record.output_tokens for record in done), wall_s),
    }
    if slo is not None:
        good = sum(slo.met_by(record) for record in records)
        found |= {
            "slo": {"ttft_s": slo.ttft_s, "tpot_s": slo.tpot_s},
            "requests_meeting_slo": good,
            "share_meeting_slo": good / len(records) if records else None,
            "requests_per_s_meeting_slo": rate(good, wall_s),
        }
    return found


def rate(count: float, wall_s: float) -> float:
    """A second; 0 without time."""
    return count / wall_s if wall_s > 0 else 0.0


def _within(value: float | None, limit: float | None, *, of_none: bool) -> bool:
    if limit is None:
        return True
    return of_none if value is None else value <= limit
