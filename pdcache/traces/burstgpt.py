"""BurstGPT's traces: CSV of arrivals and lengths (HPMLL/BurstGPT); contents are not told.

    Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
    5,ChatGPT,472,18,490,Conversation log

Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdcache.replay.fields import number, whole
from pdcache.traces.request import TraceRequest


def parse(fields: Mapping[str, Any], where: str, block_size: int) -> TraceRequest:
    """A request from the row of its line.

    Raises:
        ReplayError: naming `where` and the column.
    """
    del block_size
    row = {name: _number(value) for name, value in fields.items()}
    return TraceRequest(
        at_s=number(row, "Timestamp", where, "seconds"),
        input_tokens=whole(row, "Request tokens", where, "the tokens of the prompt"),
        output_tokens=whole(row, "Response tokens", where, "the tokens of the answer", low=0),
    )


def _number(value: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
