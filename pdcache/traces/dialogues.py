"""Dialogues as texts: ShareGPT, and lists of OpenAI messages.

    {"id": "...", "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", ...}]}
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}

They tell no times. The tokens of an answer are taken from its text, at four characters each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pdcache.errors import ReplayError
from pdcache.replay.fields import shown
from pdcache.replay.sessions import Session, Turn

CHARACTERS_A_TOKEN = 4
UNANSWERED_TOKENS = 128

_KEYS = ("conversations", "conversation", "messages")
_ROLES = {
    "human": "user", "user": "user", "prompter": "user", "tool": "user", "function": "user",
    "observation": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "model": "assistant", "system": "system", "developer": "system",
}  # fmt: skip


def parse(fields: Mapping[str, Any], where: str, name: str) -> Session:
    """A session from the object of a dialogue.

    What a user or a tool says becomes the next question. Answers before the first question fall
    away; a question at the end that has no answer gets `max_tokens` of the object, or 128.

    Raises:
        ReplayError: naming `where` and the field.
    """
    key = next((key for key in _KEYS if key in fields), "messages")
    messages = fields.get(key)
    if not isinstance(messages, list) or not messages:
        raise ReplayError(
            f"'{key}' is {shown(fields, key)}.", where=where, remedy="Give a list of messages."
        )
    system: list[str] = []
    turns: list[Turn] = []
    asked: list[str] = []
    for role, text in _messages(messages, f"{where}: {key}"):
        if role == "system":
            (asked if turns or asked else system).append(text)
        elif role == "user":
            asked.append(text)
        elif asked:
            tokens = max(1, round(len(text) / CHARACTERS_A_TOKEN))
            turns.append(Turn("\n\n".join(asked), tokens))
            asked = []
    if asked:
        turns.append(Turn("\n\n".join(asked), _limit(fields)))
    if not turns:
        raise ReplayError(
            f"'{key}' holds no question of a user.", where=where, remedy="Leave the line out."
        )
    return Session(name, tuple(turns), "\n\n".join(system) or None)


def _messages(messages: list[Any], where: str) -> Iterator[tuple[str, str]]:
    """Role and text of each message; a user's empty one is left out."""
    for index, message in enumerate(messages):
        here = f"{where}[{index}]"
        if not isinstance(message, dict):
            raise ReplayError(
                "the message is not an object.",
                where=here,
                remedy='Write {"role": "user", "content": "..."}.',
            )
        role_key = "from" if "from" in message else "role"
        said = message.get(role_key)
        role = _ROLES.get(said.lower()) if isinstance(said, str) else None
        if role is None:
            raise ReplayError(
                f"'{role_key}' is {shown(message, role_key)}.",
                where=here,
                remedy=f"Give one of {', '.join(_ROLES)}.",
            )
        text = _text(message, "value" if "from" in message else "content", here)
        if text or role == "assistant":
            yield role, text


def _text(message: Mapping[str, Any], key: str, where: str) -> str:
    content = message.get(key)
    if content is None and message.get("tool_calls") is not None:
        return json.dumps(message["tool_calls"])
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "\n".join(str(part["text"]) for part in content if "text" in part)
    raise ReplayError(
        f"'{key}' is {shown(message, key)}.", where=where, remedy=f"Give '{key}' a text."
    )


def _limit(fields: Mapping[str, Any]) -> int:
    for key in ("max_tokens", "max_completion_tokens"):
        limit = fields.get(key)
        if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 1:
            return limit
    return UNANSWERED_TOKENS
