"""What caches of the cluster's sizes could have served: the best there is (Belady), and LRU.

A cache is a set of pages that all workers share. A request looks its prompt up when it is sent, and
is served the pages up to the first that is missing. When it ends its pages come in: its prompt's,
and its answer's if the mode keeps them. A cache without limit therefore serves the ceiling.

LRU drops the page that was used the longest ago. Belady drops the one whose next use is the
farthest away, which nobody can know while it happens: no cache of that size serves more. Among
pages of one request both drop the deepest first, since a page is of no use without those before it.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from pdcache.reports.ceilings import events, usable
from pdcache.reports.environment import Environment
from pdcache.reports.run_folder import Key, RunFolder


@dataclass(frozen=True)
class Access:
    """A request that looks its pages up, or (`enters`) whose pages come in.

    Attributes:
        request: whose they are.
        pages: a chain, from the first page of the prompt on.
        enters: False for a prompt that is sent.
    """

    request: Key
    pages: tuple[int, ...]
    enters: bool


def accesses(run: RunFolder) -> list[Access]:
    """Every touch of a page in order of time."""
    found = []
    for event in events(run):
        key = (event.record.session, event.record.turn)
        pages = event.pages
        if not event.finished:
            found.append(Access(key, usable(pages, run.environment.page_size), False))
        elif run.environment.mode == "full_offload":
            found.append(Access(key, pages.prompt + pages.answer, True))
        else:
            found.append(Access(key, pages.prompt, True))
    return found


def stacked(environment: Environment) -> dict[str, int | None]:
    """Pages that fit into the tiers down to each one, over all prefill workers.

    A lower tier holds what is above it, so a stack is as large as its largest tier.
    None where a size is unknown.
    """
    capacity, size = environment.capacity, environment.page_size
    stacks: dict[str, int | None] = {}
    largest: int | None = 0
    for tier, tokens, count in (
        ("device", capacity.device, environment.prefills),
        ("host", capacity.host, environment.prefills),
        ("storage", capacity.storage, 1),
    ):
        known = largest is not None and tokens is not None
        largest = max(largest or 0, (tokens or 0) * count // size) if known else None
        stacks[tier] = largest
    return stacks


def lru_hits(touched: Iterable[Access], capacity: int) -> dict[Key, int]:
    """Pages that an LRU cache of `capacity` pages serves of each request."""
    held: OrderedDict[int, None] = OrderedDict()
    hits: dict[Key, int] = {}
    for access in touched:
        pages = access.pages
        if not access.enters:
            hits[access.request] = _leading(pages, held)
            pages = pages[: hits[access.request]]
        for page in reversed(pages):
            held[page] = None
            held.move_to_end(page)
        while len(held) > capacity:
            held.popitem(last=False)
    return hits


def belady_hits(touched: Sequence[Access], capacity: int) -> dict[Key, int]:
    """Pages that the best cache of `capacity` pages serves of each request."""
    next_uses = _next_uses(touched)
    held: dict[int, int] = {}
    farthest: list[tuple[int, int, int]] = []
    hits: dict[Key, int] = {}
    for access, uses in zip(touched, next_uses, strict=True):
        if not access.enters:
            hits[access.request] = _leading(access.pages, held)
        for depth, (page, use) in enumerate(zip(access.pages, uses, strict=True)):
            if access.enters or page in held:
                held[page] = use
                heapq.heappush(farthest, (-use, -depth, page))
        while len(held) > capacity:
            use, _, page = heapq.heappop(farthest)
            if held.get(page) == -use:
                del held[page]
    return hits


def _next_uses(touched: Sequence[Access]) -> list[list[int]]:
    """For every page of every access: the index of the next one that looks it up."""
    never = len(touched)
    after: dict[int, int] = {}
    found = []
    for index in range(len(touched) - 1, -1, -1):
        access = touched[index]
        found.append([after.get(page, never) for page in access.pages])
        if not access.enters:
            after.update(dict.fromkeys(access.pages, index))
    found.reverse()
    return found


def _leading(pages: Iterable[int], held: Container[int]) -> int:
    count = 0
    for page in pages:
        if page not in held:
            break
        count += 1
    return count
