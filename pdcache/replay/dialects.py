"""The dialects in which a target is spoken to: where to send, what to send, how to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pdcache.errors import ReplayError
from pdcache.replay.answer_stream import AnswerStream, GenerateStream
from pdcache.replay.openai_stream import OpenAIStream

Message = Mapping[str, str]


@dataclass(frozen=True)
class GenerateRequest:
    """A prompt in tokens and what to ask for.

    `extra` holds further keys of the body, null for one that shall not be there; its
    `sampling_params` are added to the client's. `messages` are the prompt as a chat endpoint
    wants it.
    """

    input_ids: Sequence[int]
    max_tokens: int
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[Message] = ()


@dataclass(frozen=True)
class Dialect:
    """One way to ask for a streamed answer: greedy, exactly `max_tokens` tokens.

    Attributes:
        path: where requests are posted.
        keys: the body of a request, without its `extra`.
        stream: makes the reader of one answer.
        chat: whether prompts are messages, which the target makes tokens of.
    """

    name: str
    path: str
    keys: Callable[[GenerateRequest], dict[str, Any]]
    stream: Callable[[], AnswerStream]
    chat: bool = False

    def body(self, request: GenerateRequest) -> bytes:
        """The JSON to send."""
        body = {**request.extra, **self.keys(request), "stream": True}
        removed = [key for key, value in request.extra.items() if value is None]
        for key in removed:
            del body[key]
        return msgspec.json.encode(body)


def _generate(request: GenerateRequest) -> dict[str, Any]:
    sampling = {"temperature": 0, "max_new_tokens": request.max_tokens, "ignore_eos": True}
    own = request.extra.get("sampling_params") or {}
    return {"input_ids": request.input_ids, "sampling_params": {**sampling, **own}}


def _completions(request: GenerateRequest) -> dict[str, Any]:
    own = {"prompt": request.input_ids, "max_tokens": request.max_tokens}
    return {**own, **_OPENAI, "return_token_ids": True}


def _chat(request: GenerateRequest) -> dict[str, Any]:
    return {"messages": request.messages, "max_completion_tokens": request.max_tokens, **_OPENAI}


# ignore_eos and return_token_ids: SGLang and vLLM; return_cached_tokens_details: SGLang 0.5.23,
# which refuses return_token_ids in a chat that streams (``entrypoints/openai/serving_chat.py``).
_OPENAI = {
    "temperature": 0,
    "stream_options": {"include_usage": True},
    "ignore_eos": True,
    "return_cached_tokens_details": True,
}

SGLANG = Dialect("sglang", "/generate", _generate, GenerateStream)
_COMPLETIONS = Dialect("openai-completions", "/v1/completions", _completions, OpenAIStream)
_CHAT = Dialect("openai-chat", "/v1/chat/completions", _chat, OpenAIStream, chat=True)
DIALECTS = {dialect.name: dialect for dialect in (SGLANG, _CHAT, _COMPLETIONS)}


def dialect(name: str) -> Dialect:
    """The dialect of that name.

    Raises:
        ReplayError: there is none.
    """
    if name not in DIALECTS:
        raise ReplayError(
            f"there is no dialect {name!r}.",
            where="--dialect",
            remedy=f"Give one of {', '.join(DIALECTS)}.",
        )
    return DIALECTS[name]
