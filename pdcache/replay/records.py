"""What a replay measures: one record a request, one result a replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CachedTokens:
    """Prompt tokens whose KV was reused, by the tier that held it: L1, L2, L3."""

    device: int = 0
    host: int = 0
    storage: int = 0

    @property
    def total(self) -> int:
        """Tokens reused over all tiers."""
        return self.device + self.host + self.storage


@dataclass(frozen=True)
class RequestError:
    """Why a request did not complete.

    `kind` is one of: connect, http_<status>, stream_error (an error event in the stream),
    bad_event (an event that is not of the dialect), aborted, broken_stream, timeout; and of
    requests that were not sent: before_turn, context (longer than the model's context).
    """

    kind: str
    message: str


@dataclass(frozen=True)
class RequestRecord:
    """One turn of one session, as sent and as answered.

    Attributes:
        session: the session's name.
        turn: 1-based number of the turn.
        prompt_tokens: tokens sent.
        output_ids: the answer, in tokens; made of its text where the target sends no tokens.
        cached: prompt tokens served from each tier, as the server reports them.
        ceiling_tokens: prompt tokens an unlimited cache could have served when it was sent.
        sent_s: when it was sent, in seconds from the start of the replay.
        send_lag_s: seconds by which the client itself sent it late.
        ttft_s: seconds from sending to the first token; None without one.
        gaps_s: seconds between neighbouring tokens, one fewer than tokens. Tokens of one
            event arrive together: the first has the gap, the others 0. Where the target sends
            no tokens: between neighbouring events.
        latency_s: seconds from sending to the end of the stream or to the error.
        error: None when the answer is complete.
        worker: the (decode) worker that answered, when the gateway tells.
        prefill: the worker that did the prefill, when decode tells. Both by their names in the
            cluster, of other targets as they are told.
        prompt_ids_hash: hash of the tokens sent.
        finished_s: when it ended, in seconds from the start of the replay.
        expected_output_tokens: tokens that were asked for.
        warmup: sent before the steady-state window.
        counted_tokens: tokens of the answer as the server counted them, where it sends none.
    """

    session: str
    turn: int
    prompt_tokens: int
    output_ids: tuple[int, ...]
    cached: CachedTokens
    ceiling_tokens: int
    sent_s: float
    send_lag_s: float
    ttft_s: float | None
    gaps_s: tuple[float, ...]
    latency_s: float
    error: RequestError | None = None
    worker: str | None = None
    prefill: str | None = None
    prompt_ids_hash: str | None = None
    finished_s: float = 0.0
    expected_output_tokens: int = 0
    warmup: bool = False
    counted_tokens: int | None = None

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer that arrived."""
        return len(self.output_ids) if self.counted_tokens is None else self.counted_tokens

    @property
    def tpot_s(self) -> float | None:
        """Seconds a token after the first: (last - first) / (tokens - 1); None under two."""
        steps = len(self.gaps_s) if self.counted_tokens is None else self.counted_tokens - 1
        return sum(self.gaps_s) / steps if self.gaps_s and steps > 0 else None

    def to_json(self) -> dict[str, Any]:
        """The record as a line of `requests.jsonl`."""
        return {
            **vars(self),
            "cached": vars(self.cached),
            "error": vars(self.error) if self.error else None,
            "output_tokens": self.output_tokens,
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> RequestRecord:
        """Read back what `to_json` gave."""
        fields = {key: value for key, value in line.items() if key != "output_tokens"}
        error = fields.pop("error")
        return cls(
            **{
                **fields,
                "output_ids": tuple(fields["output_ids"]),
                "gaps_s": tuple(fields["gaps_s"]),
                "cached": CachedTokens(**fields["cached"]),
                "error": RequestError(**error) if error else None,
            }
        )


@dataclass(frozen=True)
class ReplaySummary:
    """How a replay ended; its records are in its folder.

    Attributes:
        planned: turns of all sessions.
        completed: turns that have a whole answer, those of a run that was resumed included.
        failed: turns whose last try failed.
        wall_s: seconds from the start to the end of the last request.
        first_error: the first record that failed.
        gave_up: why sending was stopped before all sessions had their turn, or None.
    """

    planned: int
    completed: int
    failed: int
    wall_s: float
    first_error: RequestRecord | None = None
    gave_up: str | None = None


@dataclass(frozen=True)
class ReplayResult:
    """A replay with all its records, as it was read from its folder.

    Attributes:
        target: the address it ran against.
        mode: what the ceiling counts, `prefill_only` or `full_offload`.
        page_size: tokens a page.
        requests_planned: turns of all sessions; fewer are sent when a turn fails.
        wall_s: seconds from the start to the end of the last request.
        records: in order of completion.
    """

    target: str
    mode: str
    page_size: int
    requests_planned: int
    wall_s: float
    records: tuple[RequestRecord, ...]

    @property
    def completed(self) -> tuple[RequestRecord, ...]:
        """The requests that got a whole answer."""
        return tuple(record for record in self.records if record.error is None)

    @property
    def failed(self) -> tuple[RequestRecord, ...]:
        """The requests that did not."""
        return tuple(record for record in self.records if record.error is not None)
