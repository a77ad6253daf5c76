"""Mooncake's traces: JSONL of requests with content ids (kvcache-ai/Mooncake, FAST25-release).

    {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, ...]}

Times are in milliseconds, blocks of 512 tokens unless told otherwise. Later writers added
`session_id`, `delay` (ms) and other names for the same fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdcache.errors import ReplayError
from pdcache.replay.fields import content_ids, milliseconds, whole
from pdcache.traces.blocks import check_blocks
from pdcache.traces.request import TraceRequest

INPUT = ("input_length", "input_tokens")
OUTPUT = ("output_length", "output_tokens")
TIME = ("timestamp", "created_time")
DELAY = ("delay", "delay_ms")


def parse(fields: Mapping[str, Any], where: str, block_size: int) -> TraceRequest:
    """A request from the object of its line; a `hash_ids` of a turn is its whole prompt.

    Raises:
        ReplayError: naming `where` and the field.
    """
    session = fields.get("session_id")
    if session is not None and not isinstance(session, str | int):
        raise ReplayError(
            f"'session_id' is {session!r}.", where=where, remedy="Give a text or a number."
        )
    name = None if session is None else str(session)
    delay, time = _one_of(fields, DELAY), _one_of(fields, TIME)
    think_s = None
    if name is not None and fields.get(delay) is not None:
        think_s = milliseconds(fields, delay, where)
    at_s = None
    if fields.get(time) is not None or think_s is None:
        at_s = milliseconds(fields, time, where)
    input_tokens = whole(fields, _one_of(fields, INPUT), where, "the tokens of the prompt")
    blocks = None
    if fields.get("hash_ids") is not None:
        blocks = content_ids(fields, "hash_ids", where)
        check_blocks(len(blocks), input_tokens, block_size, f"{where}: hash_ids")
    return TraceRequest(
        at_s=at_s,
        input_tokens=input_tokens,
        output_tokens=whole(
            fields, _one_of(fields, OUTPUT), where, "the tokens of the answer", low=0
        ),
        blocks=blocks,
        name=name,
        follows=name,
        think_s=think_s,
    )


def _one_of(fields: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in fields), names[0])
