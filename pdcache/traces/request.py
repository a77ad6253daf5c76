"""One request of a trace, whatever the format it came in."""

from __future__ import annotations

from typing import NamedTuple


class TraceRequest(NamedTuple):
    """One request.

    Attributes:
        at_s: arrival in seconds on the trace's own clock; None for a turn that comes `think_s`
            after the one it follows.
        input_tokens: tokens of the whole prompt, at least 1.
        output_tokens: tokens of the answer, 0 or more.
        blocks: content ids of the whole prompt; None when the trace does not tell contents.
        name: what later requests call it by; None when none can follow.
        follows: name of the request whose dialogue it goes on with.
        think_s: seconds between the answer to that one and this request, where known.
    """

    at_s: float | None
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] | None = None
    name: str | None = None
    follows: str | None = None
    think_s: float | None = None
