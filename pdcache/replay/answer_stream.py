"""One streamed answer of SGLang's `/generate`, put together from its server-sent events."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec

from pdcache.replay.records import CachedTokens, RequestError

_SHOWN_CHARS = 400
_NOT_JSON = (msgspec.MsgspecError, ValueError, RecursionError)


class AnswerStream:
    """What all dialects have in common; `feed` never raises on what a server sends.

    A dialect has the `decoder` of its events, which have an `error`, and takes the rest of them.

    Attributes:
        output_ids: the answer so far, in tokens.
        text: the answer so far as text, where the dialect's next prompt needs it.
        stamps_s: when each token (without tokens: each event) arrived, on the caller's clock.
        prompt_tokens: prompt tokens the server counted, None when it does not say.
        counted_tokens: tokens of the answer as the server counted them, where it sends none.
        cached: reused prompt tokens by tier; all on the device when the server gives no tiers.
        error: set once the stream reports an error.
        done: whether the answer is complete.
    """

    decoder: msgspec.json.Decoder[Any]

    def __init__(self) -> None:
        self.output_ids: list[int] = []
        self.text = ""
        self.stamps_s: list[float] = []
        self.prompt_tokens: int | None = None
        self.counted_tokens: int | None = None
        self.cached = CachedTokens()
        self.error: RequestError | None = None
        self.done = False

    def feed(self, data: bytes, at_s: float) -> None:
        """Take the data of one event that arrived at `at_s`."""
        if self.done or self.error:
            return
        if data == b"[DONE]":
            self.end()
            return
        try:
            event = self.decoder.decode(data)
        except _NOT_JSON:
            shown = data[:_SHOWN_CHARS].decode("utf-8", "replace")
            self.error = RequestError("bad_event", f"not an event of the dialect: {shown}")
            return
        if event.error is not None:
            self.error = RequestError("stream_error", error_text(event.error))
        else:
            self.take(event, at_s)

    def take(self, event: Any, at_s: float) -> None:
        """Take an event that is no error."""
        raise NotImplementedError

    def end(self) -> None:
        """The server says that the answer is complete."""
        if self.stamps_s:
            self.done = True
        else:
            self.error = RequestError("broken_stream", "the answer ended without a token")


Token = Annotated[int, msgspec.Meta(ge=0)]


class _Meta(msgspec.Struct):
    finish_reason: Any = None
    completion_tokens: Any = None
    prompt_tokens: Any = None
    cached_tokens: Any = None
    cached_tokens_details: Any = None


class _Event(msgspec.Struct):
    output_ids: list[Token] | None = None
    meta_info: _Meta | None = None
    error: Any = None


_NO_META = _Meta()


class GenerateStream(AnswerStream):
    """An answer of `/generate`.

    `output_ids` of an event is either the whole answer so far or, with
    `--incremental-streaming-output`, what is new (SGLang 0.5.23, managers/tokenizer_manager.py).
    `meta_info.completion_tokens` tells which; without it, a list that begins with the answer
    so far is taken as the whole.
    """

    decoder = msgspec.json.Decoder(_Event)

    def take(self, event: _Event, at_s: float) -> None:
        """Take tokens, and what the server says of the request."""
        ids, meta = event.output_ids or [], event.meta_info or _NO_META
        self.prompt_tokens = count(meta.prompt_tokens)
        self.cached = cached_tokens(meta.cached_tokens, meta.cached_tokens_details)
        reason = meta.finish_reason
        if isinstance(reason, dict) and reason.get("type") == "abort":
            self.error = RequestError("aborted", error_text(reason))
            return
        whole = self._is_whole(ids, count(meta.completion_tokens))
        new = ids[len(self.output_ids) :] if whole else ids
        self.output_ids += new
        self.stamps_s += [at_s] * len(new)
        if reason is not None:
            self.end()

    def _is_whole(self, ids: list[int], total: int | None) -> bool:
        if total == len(ids):
            return True
        if total == len(self.output_ids) + len(ids):
            return False
        return len(ids) >= len(self.output_ids) and ids[: len(self.output_ids)] == self.output_ids


def cached_tokens(total: object, tiers: object) -> CachedTokens:
    """Reused tokens from SGLang's `cached_tokens` and `cached_tokens_details`."""
    if isinstance(tiers, dict):
        known = (count(tiers.get(tier)) or 0 for tier in ("device", "host", "storage"))
        return CachedTokens(*known)
    return CachedTokens(device=count(total) or 0)


def error_text(error: object) -> str:
    """The message of an error body: an object with a `message`, or whatever stands there."""
    if isinstance(error, dict):
        if error.get("error"):
            return error_text(error["error"])
        error = error.get("message") or error
    text = error if isinstance(error, str) else json.dumps(error)
    return text[:_SHOWN_CHARS]


def count(value: object) -> int | None:
    """A whole number from 0, or None for anything else."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if whole and isinstance(value, int) else None
