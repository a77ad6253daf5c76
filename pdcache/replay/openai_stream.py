"""One streamed answer of an OpenAI endpoint, `/v1/completions` or `/v1/chat/completions`."""

from __future__ import annotations

from typing import Any

import msgspec

from pdcache.replay.answer_stream import (
    AnswerStream,
    Token,
    cached_tokens,
    count,
)
from pdcache.replay.records import CachedTokens, RequestError


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    token_ids: list[Token] | None = None
    finish_reason: Any = None


class _Details(msgspec.Struct):
    cached_tokens: Any = None


class _Usage(msgspec.Struct):
    prompt_tokens: Any = None
    completion_tokens: Any = None
    prompt_tokens_details: _Details | None = None


class _Extension(msgspec.Struct):
    cached_tokens_details: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    sglext: _Extension | None = None
    error: Any = None


class OpenAIStream(AnswerStream):
    """An answer whose last chunk holds `usage`, with the cached tokens in its details.

    SGLang and vLLM add `token_ids` to a choice when asked to (`return_token_ids`), SGLang the
    tiers under `sglext`. Thoughts (`reasoning_content`) count as tokens, not as text of the answer.
    """

    decoder = msgspec.json.Decoder(_Chunk)

    def __init__(self) -> None:
        super().__init__()
        self._tiers: CachedTokens | None = None

    def take(self, chunk: _Chunk, at_s: float) -> None:
        """Take a piece of the answer, or the counts at its end."""
        if chunk.choices:
            self._take(chunk.choices[0], at_s)
        if chunk.usage is not None:
            self._count(chunk.usage)
        if chunk.sglext is not None and chunk.sglext.cached_tokens_details is not None:
            self._tiers = cached_tokens(None, chunk.sglext.cached_tokens_details)
        self.cached = self._tiers or self.cached

    def _take(self, choice: _Choice, at_s: float) -> None:
        text, thought = choice.text or "", ""
        if choice.delta is not None:
            text, thought = choice.delta.content or "", choice.delta.reasoning_content or ""
        ids = choice.token_ids or []
        self.output_ids += ids
        self.text += text
        if ids:
            self.stamps_s += [at_s] * len(ids)
        elif text or thought:
            self.stamps_s.append(at_s)
        if choice.finish_reason in ("abort", "error"):
            self.error = RequestError("aborted", f"finish_reason is {choice.finish_reason}")

    def _count(self, usage: _Usage) -> None:
        self.prompt_tokens = count(usage.prompt_tokens)
        self.counted_tokens = count(usage.completion_tokens)
        details = usage.prompt_tokens_details
        self.cached = cached_tokens(details.cached_tokens if details else None, None)
