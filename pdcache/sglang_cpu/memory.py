"""Rows of memory by address, and index lists turned into the cheapest way to select rows."""

from __future__ import annotations

import ctypes
from typing import TypeAlias

import torch

Selector: TypeAlias = slice | torch.Tensor


def rows_at(address: int, rows: int, row_bytes: int) -> torch.Tensor:
    """A writable view of `rows` packed rows of `row_bytes` bytes starting at `address`.

    Does not own the memory: valid only as long as the tensor that does. The element type is
    int64 where `row_bytes` allows it (fewer elements to move), uint8 otherwise, so that two
    views of equal `row_bytes` always have equal types.
    """
    raw = (ctypes.c_uint8 * (rows * row_bytes)).from_address(address)
    word = torch.int64 if row_bytes % 8 == 0 else torch.uint8
    return torch.frombuffer(raw, dtype=word).view(rows, row_bytes // word.itemsize)


def rows_covering(address: int, indices: torch.Tensor, row_bytes: int) -> torch.Tensor:
    """`rows_at` with just enough rows for every row named in `indices` (not empty)."""
    return rows_at(address, int(indices.max()) + 1, row_bytes)


def selector(indices: torch.Tensor) -> Selector:
    """Select `indices` (1-D, not empty) along a dimension: a slice when they are one run.

    Pages allocated together are one run, and a slice needs no gathered copy.
    """
    first, last = int(indices[0]), int(indices[-1])
    if last - first == indices.numel() - 1 and bool((indices.diff() == 1).all()):
        return slice(first, last + 1)
    return indices.long()


def page_selector(indices: torch.Tensor, page_size: int) -> Selector:
    """Select the pages that `indices` (slots of whole pages, in page order) cover."""
    return selector(indices[::page_size] // page_size)


def nothing_to_copy(
    src_indices: torch.Tensor, dst_indices: torch.Tensor, page_size: int = 1
) -> bool:
    """True for empty index lists.

    Raises:
        ValueError: the lists differ in length, or do not hold whole pages.
    """
    count: int = src_indices.numel()
    if count != dst_indices.numel():
        raise ValueError(f"{count} source indices but {dst_indices.numel()} destination indices")
    if count % page_size:
        raise ValueError(f"{count} indices are not whole pages of {page_size}")
    return count == 0
