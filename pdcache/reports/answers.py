"""Whether two runs gave the same answers, token for token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pdcache.reports.run_folder import RunFolder


class Difference(NamedTuple):
    """Where two answers part: `position` is the index of the first token that differs."""

    session: str
    turn: int
    position: int


def compare_outputs(a: RunFolder, b: RunFolder) -> list[Difference]:
    """The turns whose answers differ in tokens, by session and turn; empty when all are equal.

    An answer that ends earlier differs where it ends; a turn that only one run completed differs
    at 0. A turn whose predecessor differs had another prompt.
    """
    first, second = (
        {(record.session, record.turn): record.output_ids for record in run.completed}
        for run in (a, b)
    )
    return [
        Difference(*key, _first_difference(first.get(key, ()), second.get(key, ())))
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    ]


def _first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    for position, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return position
    return min(len(a), len(b))
