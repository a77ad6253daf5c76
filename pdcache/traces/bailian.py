"""Bailian's traces: JSONL of requests with content ids and links (alibaba-edu/qwen-bailian).

    {"chat_id": 7, "parent_chat_id": 3, "timestamp": 61.1, "input_length": 70,
     "output_length": 12, "type": "text", "turn": 2, "hash_ids": [9, 10, 11, 12, 13]}

Times are in seconds, blocks of 16 tokens; a chat without a parent has -1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdcache.replay.fields import content_ids, number, whole
from pdcache.traces.blocks import check_blocks
from pdcache.traces.request import TraceRequest


def parse(fields: Mapping[str, Any], where: str, block_size: int) -> TraceRequest:
    """A request from the object of its line.

    Raises:
        ReplayError: naming `where` and the field.
    """
    parent = whole(fields, "parent_chat_id", where, "the chat_id of the turn before", low=-1)
    input_tokens = whole(fields, "input_length", where, "the tokens of the prompt")
    blocks = content_ids(fields, "hash_ids", where)
    check_blocks(len(blocks), input_tokens, block_size, f"{where}: hash_ids")
    return TraceRequest(
        at_s=number(fields, "timestamp", where, "seconds"),
        input_tokens=input_tokens,
        output_tokens=whole(fields, "output_length", where, "the tokens of the answer", low=0),
        blocks=blocks,
        name=str(whole(fields, "chat_id", where, "the number of the chat", low=0)),
        follows=None if parent < 0 else str(parent),
    )
