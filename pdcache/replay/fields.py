"""Fields of a JSON line; an error names the place, the key, the value and the remedy."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from pdcache.errors import ReplayError


def json_object(line: str | bytes, where: str, example: str) -> dict[str, Any]:
    """The object that a line holds.

    Raises:
        ReplayError: it is no JSON object; the remedy shows `example`.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as cause:
        raise ReplayError(
            f"the line is not JSON: {cause}.", where=where, remedy="Write one JSON object a line."
        ) from cause
    if not isinstance(value, dict):
        raise ReplayError("the line is not a JSON object.", where=where, remedy=f"Write {example}.")
    return value


def text(of: Mapping[str, Any], key: str, where: str) -> str:
    """A text that is not empty.

    Raises:
        ReplayError: it is none, or missing.
    """
    value = of.get(key)
    if not isinstance(value, str) or not value:
        raise ReplayError(
            f"'{key}' is {shown(of, key)}.", where=where, remedy=f"Give '{key}' a text."
        )
    return value


def whole(of: Mapping[str, Any], key: str, where: str, what: str, low: int = 1) -> int:
    """A whole number from `low`; `what` says in the remedy what it counts.

    Raises:
        ReplayError: it is none, or missing.
    """
    value = of.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ReplayError(
            f"'{key}' is {shown(of, key)}.",
            where=where,
            remedy=f"Give {what}, a whole number from {low}.",
        )
    return value


def seconds(of: Mapping[str, Any], key: str, where: str) -> float:
    """Seconds from 0; 0 when the key is absent.

    Raises:
        ReplayError: it is no such number.
    """
    value = of.get(key, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ReplayError(
            f"'{key}' is {shown(of, key)}.", where=where, remedy="Give seconds, 0 or more."
        )
    return float(value)


def content_ids(of: Mapping[str, Any], key: str, where: str) -> tuple[int, ...]:
    """A list of ids of blocks, each from 0 and below 2**63.

    Raises:
        ReplayError: it is none, or missing.
    """
    value = of.get(key)
    if not isinstance(value, list) or not value:
        raise ReplayError(
            f"'{key}' is {shown(of, key)}.",
            where=where,
            remedy="Give a list of ids, one for each block of the prompt.",
        )
    for index, block in enumerate(value):
        if type(block) is not int or not 0 <= block < 2**63:
            raise ReplayError(
                f"'{key}[{index}]' is {block!r}.",
                where=where,
                remedy="Give ids that are whole numbers from 0 and below 2**63.",
            )
    return tuple(value)


def refuse_unknown(of: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """Refuse a key that is not `known`.

    Raises:
        ReplayError: naming the nearest known key.
    """
    for key in of:
        if key in known:
            continue
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        raise ReplayError(
            f"the key '{key}' is unknown.",
            where=where,
            remedy=f"Did you mean '{near[0]}'? Known keys: {', '.join(known)}.",
        )


def shown(of: Mapping[str, Any], key: str) -> str:
    """The value of a key as an error shows it, in at most 80 characters."""
    if key not in of:
        return "missing"
    value = repr(of[key])
    return value if len(value) <= 80 else f"{value[:77]}..."
