"""Where the hits went: every token between what was offered and what was served, by name.

Three names follow from the ceilings alone and are exact: `retokenised`, `page_tail` and
`answers_not_kept`. What a request lost below the ceiling of its mode is claimed by the first rule
of `RULES` that explains it; what none explains is `unexplained`. Hits above the ceiling are no
negative losses: they are told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from pdcache.replay.records import RequestRecord
from pdcache.reports.ceilings import Ceilings, ceilings
from pdcache.reports.history import Evidence, Gap, evidence, gaps
from pdcache.reports.run_folder import Key, RunFolder
from pdcache.reports.timeline import overlaps

Rule = Callable[[Gap, Evidence], int]

# Seconds that a finished page may need on its way to L3 where no counter tells more: decode
# writes its last pages when the answer ends, and does not count them.
WRITE_S = 1.0
# Beyond this age a page that was not counted as written was not on its way any more.
_LONGEST_WRITE_S = 60.0


def reuse_off(gap: Gap, known: Evidence) -> int:
    """The run asked for no reuse: every request had a cache salt of its own."""
    return 0 if known.environment.reuse else gap.lost_tokens


def wrong_worker(gap: Gap, known: Evidence) -> int:
    """There is no L3, and only other prefill workers had the page.

    Needs the prefill of every request, which only servers that pdcache started tell. A page of an
    answer is on no prefill worker.
    """
    if known.environment.capacity.storage != 0 or gap.prefill is None or not gap.holders:
        return 0
    return 0 if gap.prefill in gap.holders else gap.lost_tokens


def store_down(gap: Gap, known: Evidence) -> int:
    """The store did not answer, or did not take the page.

    It did not answer for at least three samples while the page was to be written or read; or
    prefill workers brought tokens to L2 since the page's request was sent that had not come to
    L3 at the end of the run (SGLang's `hicache_backup_tokens_total` less `backuped_tokens_total`).
    Decode workers do not count their writes.
    """
    spans = known.store_outages
    if overlaps(spans, gap.sent_s, gap.first_token_s):
        return gap.lost_tokens
    if gap.origin is None:
        return 0
    written_s = gap.origin.finished_s + WRITE_S
    if overlaps(spans, gap.origin.sent_s, min(written_s, gap.sent_s)):
        return gap.lost_tokens
    if gap.origin.answer or not known.unwritten.points:
        return 0
    stuck = known.unwritten.least_from(gap.sent_s) > known.unwritten.at(gap.origin.sent_s)
    return gap.lost_tokens if stuck else 0


def below_threshold(gap: Gap, known: Evidence) -> int:
    """What L1 and L2 lacked was shorter than the shortest part that is read from L3.

    SGLang does not ask L3 for what is shorter than `prefetch_threshold`, and where it asks for a
    longer part it drops hits that are shorter (0.5.23 ``mem_cache/unified_radix_cache.py``, reason
    `below_threshold`). Whether L3 had what is missing here is not known: it may have been lost for
    another reason as well.
    """
    threshold = known.environment.prefetch_threshold
    if threshold is None or gap.storage_tokens or gap.lost_tokens >= threshold:
        return 0
    return gap.lost_tokens


def not_yet_written(gap: Gap, known: Evidence) -> int:
    """The page was finished too shortly before to be in L3.

    Certain when prefill workers had written less since the page's request was sent than stands
    in that request's new pages up to this one. Else it is judged by age alone: `WRITE_S`.
    """
    origin = gap.origin
    if origin is None:
        return 0
    age_s = gap.sent_s - origin.finished_s
    if age_s < WRITE_S:
        return gap.lost_tokens
    if origin.answer or not known.written.points or age_s > _LONGEST_WRITE_S:
        return 0
    written = known.written.most_between(origin.sent_s, gap.sent_s)
    return gap.lost_tokens if written < origin.tokens_before else 0


def evicted(gap: Gap, known: Evidence) -> int:
    """An LRU cache of the sizes of all tiers had dropped the page, or the store was evicting.

    The store's policy is not exactly LRU and its counter names no pages: evictions between the
    page's end and this request are taken to be of this page.
    """
    if gap.page is None:
        return 0
    if known.lru_pages.get(gap.key, gap.index + 1) <= gap.index:
        return gap.lost_tokens
    if gap.origin is None or not known.store_evictions.points:
        return 0
    since = known.store_evictions.at(gap.origin.finished_s)
    return gap.lost_tokens if known.store_evictions.at(gap.sent_s) > since else 0


def read_cut_short(gap: Gap, known: Evidence) -> int:
    """Prefill workers gave up reading from L3 while this request waited for its first token.

    SGLang counts tokens, not requests: those of other requests at that time count here too.
    """
    if not known.cut_reads.points:
        return 0
    return int(known.cut_reads.most_between(gap.sent_s, gap.first_token_s))


RULES: Mapping[str, Rule] = {
    "reuse_off": reuse_off,
    "wrong_worker": wrong_worker,
    "store_down": store_down,
    "below_threshold": below_threshold,
    "not_yet_written": not_yet_written,
    "evicted": evicted,
    "read_cut_short": read_cut_short,
}
"""In the order in which they are asked: what is certain first."""

NAMES = ("retokenised", "page_tail", "answers_not_kept", *RULES, "unexplained")
"""Every loss, from the top of the waterfall down."""


@dataclass(frozen=True)
class Losses:
    """Tokens of some requests; `offered - sum(named) == served`.

    Attributes:
        offered, exact, full, ceiling: sums of their ceilings (`mode` is `ceiling`).
        named: tokens lost, by every name of `NAMES`.
        served: hits, each request's only up to its ceiling.
        over_ceiling: hits beyond.
    """

    offered: int = 0
    exact: int = 0
    full: int = 0
    ceiling: int = 0
    named: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    served: int = 0
    over_ceiling: int = 0

    @classmethod
    def sum(cls, parts: Iterable[Losses]) -> Losses:
        """Losses of several requests together."""
        parts = list(parts)
        return cls(
            offered=sum(part.offered for part in parts),
            exact=sum(part.exact for part in parts),
            full=sum(part.full for part in parts),
            ceiling=sum(part.ceiling for part in parts),
            named={name: sum(part.named[name] for part in parts) for name in NAMES},
            served=sum(part.served for part in parts),
            over_ceiling=sum(part.over_ceiling for part in parts),
        )


def losses(run: RunFolder, of: Mapping[Key, Ceilings] | None = None) -> dict[Key, Losses]:
    """The losses of every completed request."""
    of = ceilings(run) if of is None else of
    known = evidence(run)
    claimed = {gap.key: claims(gap, known) for gap in gaps(run, of)}
    return {
        (record.session, record.turn): _of_request(
            record,
            of[record.session, record.turn],
            claimed.get((record.session, record.turn), {}),
        )
        for record in run.completed
    }


def claims(gap: Gap, known: Evidence, rules: Mapping[str, Rule] = RULES) -> dict[str, int]:
    """What each rule claims of a gap, in order, of what is left; the rest is unexplained."""
    left = gap.lost_tokens
    claimed = {}
    for name, rule in rules.items():
        claimed[name] = min(left, max(0, rule(gap, known)))
        left -= claimed[name]
    return {**claimed, "unexplained": left}


def _of_request(record: RequestRecord, of: Ceilings, claimed: Mapping[str, int]) -> Losses:
    served = min(record.cached.total, of.mode)
    return Losses(
        offered=of.offered,
        exact=of.exact,
        full=of.full,
        ceiling=of.mode,
        named={
            **dict.fromkeys(NAMES, 0),
            "retokenised": of.offered - of.exact,
            "page_tail": of.exact - of.full,
            "answers_not_kept": of.full - of.mode,
            **claimed,
        },
        served=served,
        over_ceiling=record.cached.total - served,
    )
