"""One streamed answer of SGLang's `/generate`, put together from its server-sent events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pdcache.replay.records import CachedTokens, RequestError

_SHOWN_CHARS = 400


class AnswerStream:
    """Takes lines as they arrive; never raises on what a server sends.

    `output_ids` of an event is either the whole answer so far or, with
    `--incremental-streaming-output`, what is new (SGLang 0.5.23, managers/tokenizer_manager.py).
    `meta_info.completion_tokens` tells which; without it, a list that begins with the answer
    so far is taken as the whole.

    Attributes:
        output_ids: the answer so far, in tokens.
        stamps_s: when each of them arrived, on the caller's clock.
        meta: the last `meta_info`.
        error: set once the stream reports an error.
        done: whether the answer is complete.
    """

    def __init__(self) -> None:
        self.output_ids: list[int] = []
        self.stamps_s: list[float] = []
        self.meta: Mapping[str, Any] = {}
        self.error: RequestError | None = None
        self.done = False

    def feed(self, line: bytes, at_s: float) -> None:
        """Take one line of the stream that arrived at `at_s`."""
        if self.done or self.error or not line.startswith(b"data:"):
            return
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            self._end()
            return
        try:
            event = json.loads(data)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            self._refuse(data)
        elif event.get("error") is not None:
            self.error = RequestError("stream_error", error_text(event["error"]))
        else:
            self._take(event, data, at_s)

    @property
    def prompt_tokens(self) -> int | None:
        """Prompt tokens the server counted, None when it does not say."""
        return _count(self.meta.get("prompt_tokens"))

    @property
    def cached(self) -> CachedTokens:
        """Reused prompt tokens by tier; all on the device when the server gives no tiers."""
        details = self.meta.get("cached_tokens_details")
        if isinstance(details, dict):
            return CachedTokens(
                **{tier: _count(details.get(tier)) or 0 for tier in ("device", "host", "storage")}
            )
        return CachedTokens(device=_count(self.meta.get("cached_tokens")) or 0)

    def _take(self, event: dict[str, Any], data: bytes, at_s: float) -> None:
        ids = event.get("output_ids") or []
        meta = event.get("meta_info") or {}
        if not isinstance(ids, list) or not isinstance(meta, dict):
            self._refuse(data)
            return
        self.meta = meta
        reason = meta.get("finish_reason")
        if isinstance(reason, dict) and reason.get("type") == "abort":
            self.error = RequestError("aborted", error_text(reason))
            return
        new = ids[len(self.output_ids) :] if self._is_whole(ids) else ids
        if not all(_count(token) is not None for token in new):
            self._refuse(data)
            return
        self.output_ids += new
        self.stamps_s += [at_s] * len(new)
        if reason is not None:
            self._end()

    def _is_whole(self, ids: list[Any]) -> bool:
        total = _count(self.meta.get("completion_tokens"))
        if total == len(ids):
            return True
        if total == len(self.output_ids) + len(ids):
            return False
        return len(ids) >= len(self.output_ids) and ids[: len(self.output_ids)] == self.output_ids

    def _end(self) -> None:
        if self.output_ids:
            self.done = True
        else:
            self.error = RequestError("broken_stream", "the answer ended without a token")

    def _refuse(self, data: bytes) -> None:
        shown = data[:_SHOWN_CHARS].decode("utf-8", "replace")
        self.error = RequestError("bad_event", f"not an event of SGLang: {shown}")


def error_text(error: object) -> str:
    """The message of an error body: an object with a `message`, or whatever stands there."""
    if isinstance(error, dict):
        if error.get("error"):
            return error_text(error["error"])
        error = error.get("message") or error
    text = error if isinstance(error, str) else json.dumps(error)
    return text[:_SHOWN_CHARS]


def _count(value: object) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if whole and isinstance(value, int) else None
