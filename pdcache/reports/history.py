"""What was known of every page when a request was sent: who made it, when, who holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pdcache.reports.capacity import Access, accesses, lru_hits, stacked
from pdcache.reports.ceilings import Ceilings, ceilings, events, usable
from pdcache.reports.environment import Environment
from pdcache.reports.run_folder import Key, RunFolder
from pdcache.reports.timeline import NOT_SAMPLED, Counter, counter, named, outages


@dataclass(frozen=True)
class Origin:
    """How a page came to be.

    Attributes:
        sent_s: when the request that made it was sent; it is not written before.
        finished_s: when that request ended.
        answer: made by a decode worker, as part of an answer.
        tokens_before: new tokens of the prompt's whole pages up to this page, itself included,
            that the same request made; they are written first.
    """

    sent_s: float
    finished_s: float
    answer: bool
    tokens_before: int


@dataclass(frozen=True)
class Gap:
    """A request that was served less than the mode's ceiling.

    Attributes:
        key: session and turn.
        sent_s, first_token_s: when it was sent and had its first token (or ended).
        prefill: the worker that did the prefill, when it is known.
        above_tokens: tokens that L1 and L2 served.
        storage_tokens: tokens that L3 served.
        lost_tokens: ceiling less hits.
        page: the first page that should have been served and was not: the chain breaks there, and
            what stands behind it in the prompt is lost with it. None without pages.
        index: its place in the prompt.
        origin: how that page came to be, None when unknown.
        holders: prefill workers that had the page in a prompt before.
    """

    key: Key
    sent_s: float
    first_token_s: float
    prefill: str | None
    above_tokens: int
    storage_tokens: int
    lost_tokens: int
    page: int | None = None
    index: int = 0
    origin: Origin | None = None
    holders: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Evidence:
    """What the rules look at beside a gap.

    Attributes:
        environment: of the run.
        lru_pages: pages that an LRU cache of all tiers serves of each request; empty when a
            size is unknown.
        store_outages: spans in which a store process did not answer.
        written: tokens that prefill workers wrote to L3; no points when it was not sampled.
        unwritten: tokens that went to L2 and not (yet) to L3.
        store_evictions: pages that the store evicted.
        cut_reads: tokens that were asked of L3 and not read: no time, no room, or an error.
    """

    environment: Environment
    lru_pages: Mapping[Key, int] = field(default_factory=dict)
    store_outages: tuple[tuple[float, float], ...] = ()
    written: Counter = NOT_SAMPLED
    unwritten: Counter = NOT_SAMPLED
    store_evictions: Counter = NOT_SAMPLED
    cut_reads: Counter = NOT_SAMPLED


def evidence(run: RunFolder) -> Evidence:
    """Collect it from the timeline, and from the sizes of the tiers."""
    stacks = stacked(run.environment)
    known = [pages for pages in stacks.values() if pages is not None]
    touched: list[Access] = accesses(run) if len(known) == len(stacks) else []
    written = counter(run.timeline, named("backuped_tokens_total"), "prefill")
    to_host = counter(run.timeline, named("hicache_backup_tokens_total"), "prefill")
    return Evidence(
        environment=run.environment,
        lru_pages=lru_hits(touched, max(known)) if touched else {},
        store_outages=outages(run.timeline, "store"),
        written=written,
        unwritten=Counter(
            tuple((at_s, total - written.at(at_s)) for at_s, total in to_host.points)
            if written.points
            else ()
        ),
        store_evictions=counter(run.timeline, named("master_evicted_key_count"), "store"),
        cut_reads=counter(run.timeline, _cut_read, "prefill"),
    )


def gaps(run: RunFolder, of: Mapping[Key, Ceilings] | None = None) -> list[Gap]:
    """The completed requests under their ceiling, in order of sending."""
    of = ceilings(run) if of is None else of
    size = run.environment.page_size
    origins: dict[int, Origin] = {}
    holders: dict[int, set[str]] = {}
    known: dict[Key, tuple[int, int, Origin | None, frozenset[str]]] = {}
    for event in events(run):
        record, pages = event.record, event.pages
        key = (record.session, record.turn)
        if not event.finished:
            index = record.cached.total // size
            servable = usable(pages, size)
            if index < len(servable):
                page = servable[index]
                held = frozenset(holders.get(page, ()))
                known[key] = (page, index, origins.get(page), held)
            continue
        fresh = 0
        for place, page in enumerate(pages.prompt + pages.answer):
            answer = place >= len(pages.prompt)
            if page not in origins:
                fresh += 0 if answer else size
                origins[page] = Origin(record.sent_s, record.finished_s, answer, fresh)
            if record.prefill is not None and not answer:
                holders.setdefault(page, set()).add(record.prefill)
    found = []
    for record in sorted(run.completed, key=lambda record: record.sent_s):
        key = (record.session, record.turn)
        lost = of[key].mode - record.cached.total
        if lost > 0:
            gap = Gap(
                key=key,
                sent_s=record.sent_s,
                first_token_s=record.sent_s
                + (record.latency_s if record.ttft_s is None else record.ttft_s),
                prefill=record.prefill,
                above_tokens=record.cached.device + record.cached.host,
                storage_tokens=record.cached.storage,
                lost_tokens=lost,
            )
            found.append(_at(gap, known.get(key)))
    return found


def _at(gap: Gap, known: tuple[int, int, Origin | None, frozenset[str]] | None) -> Gap:
    if known is None:
        return gap
    page, index, origin, holders = known
    return replace(gap, page=page, index=index, origin=origin, holders=holders)


# Reasons of SGLang 0.5.23 (observability/metrics_collector.py) that leave pages unread.
_CUT = ("deadline", "storage_transfer", "host_capacity", "device_capacity", "dropped")


def _cut_read(metric: str) -> bool:
    name = "storage_prefetch_unfulfilled_tokens_total"
    return named(name)(metric) and metric.endswith(tuple(f"reason={reason}}}" for reason in _CUT))
