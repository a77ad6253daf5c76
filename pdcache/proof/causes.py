"""Why a hop did not answer: probable causes, likeliest first, from what was seen."""

from __future__ import annotations


def probable_causes(
    missing_pages: int, storage: int, expected: int, tokens_equal: bool, hop: str
) -> tuple[str, ...]:
    """Causes for a failed canary, each with its remedy."""
    *_, writer, _, reader = hop.split(" -> ")
    causes: list[str] = []
    if not tokens_equal:
        causes += [
            "the workers store pages in different byte orders: compare hicache.layout, io_backend "
            "and dtype of prefill and decode (`pdcache check`)",
            "the workers have different weights: compare model.path on every node",
        ]
    if missing_pages:
        causes += [
            f"{writer} writes in another namespace or under another model name: compare "
            "--served-model-name and extra_backend_tag in `pdcache plan`",
            f"{writer} cannot write to the store: look for `Write page to storage` in its log",
            "the store is full or a segment holder is gone: look at the master's log",
        ]
    elif storage < expected:
        causes += [
            "prefetch_threshold is longer than what L3 adds to L1 and L2 (`pdcache check`)",
            f"{reader} gave up reading: prefetch_policy best_effort or timeout",
            f"{reader} has no room in L2 for what it would read: hicache.ratio near 1",
        ]
    return tuple(causes)
