"""The formats of traces, and which one a file has."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pdcache.errors import ReplayError
from pdcache.replay.fields import json_object
from pdcache.replay.sessions import Session, parse_session
from pdcache.traces import bailian, burstgpt, dialogues, mooncake
from pdcache.traces.items import Item
from pdcache.traces.request import TraceRequest

ParseRequest = Callable[[Mapping[str, Any], str, int], TraceRequest]
ParseSession = Callable[[Mapping[str, Any], str, str], Session]


@dataclass(frozen=True)
class Format:
    """How to read one format: `request` or `session` says what an item is.

    Attributes:
        about: what it is, for people.
        recognises: whether the keys (columns) of the first item are this format's.
        block_size: tokens a block, unless the user says otherwise.
        request: parses an item's fields; file:line and the block size are given.
        session: parses an item's fields; file:line and a name are given.
        csv: whether the first line is a header of columns.
    """

    about: str
    recognises: Callable[[Collection[str]], bool]
    block_size: int = 512
    request: ParseRequest | None = None
    session: ParseSession | None = None
    csv: bool = False


def _native(fields: Mapping[str, Any], where: str, name: str) -> Session:
    del name
    return parse_session(fields, where)


FORMATS = {
    "sessions": Format(
        "sessions, as `pdcache replay` takes them",
        lambda keys: "turns" in keys and "session" in keys,
        session=_native,
    ),
    "bailian": Format(
        "Bailian JSONL: blocks of 16 tokens, chat_id, parent_chat_id, seconds",
        lambda keys: "chat_id" in keys and "hash_ids" in keys,
        block_size=16,
        request=bailian.parse,
    ),
    "mooncake": Format(
        "Mooncake JSONL: blocks of 512 tokens, milliseconds; session_id, delay",
        lambda keys: any(name in keys for name in mooncake.INPUT),
        request=mooncake.parse,
    ),
    "sharegpt": Format(
        "ShareGPT JSON or JSONL: texts, no times",
        lambda keys: "conversations" in keys,
        session=dialogues.parse,
    ),
    "messages": Format(
        "OpenAI messages JSONL: texts, no times",
        lambda keys: "messages" in keys or "conversation" in keys,
        session=dialogues.parse,
    ),
    "burstgpt": Format(
        "BurstGPT CSV: arrivals and lengths, no contents",
        lambda keys: "Request tokens" in keys,
        request=burstgpt.parse,
        csv=True,
    ),
}


def detect_format(beginning: Sequence[Item], path: object) -> str:
    """The format of a file by the first of its items that can be read.

    Raises:
        ReplayError: it is none of them, or no item can be read.
    """
    columns = csv_row(beginning[0].text)
    for name, own in FORMATS.items():
        if own.csv and own.recognises(columns):
            return name
    errors = []
    for item in beginning:
        try:
            return _detect(item, f"{path}:{item.line}")
        except ReplayError as error:
            errors.append(error)
    raise errors[0]


def _detect(item: Item, where: str) -> str:
    keys = json_object(item.text, where, "one request or dialogue a line")
    for name, own in FORMATS.items():
        if not own.csv and own.recognises(keys):
            return name
    raise ReplayError(
        f"the format is none that is known, by the keys {', '.join(keys)[:200]}.",
        where=where,
        remedy=f"Give --format, one of {', '.join(FORMATS)}.",
    )


def csv_row(text: bytes) -> list[str]:
    """The values of one line of CSV, without blanks around them; none if it is not CSV."""
    line = text.decode("utf-8-sig", errors="replace").strip().replace("\0", "")
    try:
        return [value.strip() for value in next(csv.reader([line]), [])]
    except csv.Error:
        return []
