"""`report.json`: a run in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pdcache.replay.numbers import percentile
from pdcache.replay.records import RequestRecord
from pdcache.reports.capacity import accesses, belady_hits, lru_hits, stacked
from pdcache.reports.ceilings import Ceilings, ceilings
from pdcache.reports.goodput import Slo, goodput
from pdcache.reports.losses import Losses, losses
from pdcache.reports.run_folder import Key, RunFolder

Report = dict[str, Any]

TIERS = ("device", "host", "storage")


def build_report(run: RunFolder, slo: Slo | None = None) -> Report:
    """The report as data, `"schema": 1`; docs/replay.md tells every key.

    Latencies, tokens and losses are of the completed requests of the steady-state window. What
    was sent before counts as what had been there to reuse.
    """
    of = ceilings(run)
    lost = losses(run, of)
    measured = run.measured
    done = [record for record in measured if record.error is None]
    failed = [record for record in measured if record.error is not None]
    environment = run.environment
    numbers = sorted({record.turn for record in measured})
    total = [record for record in measured if record.turn >= 2]
    return {
        "schema": 1,
        "target": environment.target,
        "mode": environment.mode,
        "page_size": environment.page_size,
        "reuse": environment.reuse,
        "started_at": environment.started_at,
        "complete": environment.complete,
        "wall_s": run.wall_s,
        "window_s": window_s(run),
        "requests": {
            "planned": environment.planned or len(run.requests),
            "completed": len(done),
            "failed": len(failed),
            "warmup": len(run.requests) - len(measured),
        },
        "turns": [
            {"turn": number, **_summary([r for r in measured if r.turn == number], of, lost)}
            for number in numbers
        ],
        "total": _summary(total, of, lost),
        "errors": len(failed),
        "error_kinds": dict(Counter(record.error.kind for record in failed if record.error)),
        "goodput": goodput(measured, window_s(run), slo),
        "losses": loss_numbers(Losses.sum(_of(done, lost))),
        "capacity": _capacities(run, done),
    }


def window_s(run: RunFolder) -> float:
    """Seconds over which rates are taken: all, or from the first request after the warm-up."""
    measured = run.measured
    if not measured or len(measured) == len(run.requests):
        return run.wall_s
    begin = min(record.sent_s for record in measured)
    return max(record.finished_s for record in measured) - begin


def loss_numbers(lost: Losses) -> dict[str, int]:
    """Losses as numbers: `offered_tokens` less every loss is `served_tokens`.

    The losses from `reuse_off` on are those below the ceiling of the mode.
    """
    return {
        "offered_tokens": lost.offered,
        "exact_tokens": lost.exact,
        "full_ceiling_tokens": lost.full,
        "ceiling_tokens": lost.ceiling,
        **{f"{name}_tokens": tokens for name, tokens in lost.named.items()},
        "served_tokens": lost.served,
        "over_ceiling_tokens": lost.over_ceiling,
    }


def _summary(
    records: Sequence[RequestRecord], of: Mapping[Key, Ceilings], lost: Mapping[Key, Losses]
) -> dict[str, Any]:
    done = [record for record in records if record.error is None]
    cached = {tier: sum(getattr(record.cached, tier) for record in done) for tier in TIERS}
    losses_here = Losses.sum(_of(done, lost))
    hit, ceiling, prompt = (
        sum(cached.values()),
        losses_here.ceiling,
        sum(record.prompt_tokens for record in done),
    )
    return {
        "requests": len(done),
        "errors": len(records) - len(done),
        "prompt_tokens": prompt,
        "output_tokens": sum(record.output_tokens for record in done),
        "cached_tokens": cached,
        "ceiling_tokens": ceiling,
        "ceilings": {
            "exact": losses_here.exact,
            "full_offload": losses_here.full,
            "prefill_only": sum(of[r.session, r.turn].prompts for r in done),
        },
        "hit_over_ceiling": hit / ceiling if ceiling else None,
        "hit_over_prompt": hit / prompt if prompt else None,
        "ttft_s": _spread(record.ttft_s for record in done),
        "tpot_s": _spread(record.tpot_s for record in done),
        "itl_s": _spread(gap for record in done for gap in record.gaps_s),
        "send_lag_s": _spread(record.send_lag_s for record in done),
        "losses": loss_numbers(losses_here),
    }


def _capacities(run: RunFolder, done: Sequence[RequestRecord]) -> dict[str, Any]:
    """Tokens that caches of the tiers' sizes could have served; null where a size is unknown."""
    size = run.environment.page_size
    touched = accesses(run)
    keys = {(record.session, record.turn) for record in done}

    def tokens(hits: Mapping[Key, int]) -> int:
        return sum(pages for key, pages in hits.items() if key in keys) * size

    return {
        tier: None
        if pages is None or not touched
        else {
            "capacity_tokens": pages * size,
            "lru_tokens": tokens(lru_hits(touched, pages)),
            "belady_tokens": tokens(belady_hits(touched, pages)),
        }
        for tier, pages in stacked(run.environment).items()
    }


def _of(records: Iterable[RequestRecord], lost: Mapping[Key, Losses]) -> list[Losses]:
    return [lost[record.session, record.turn] for record in records]


def _spread(values: Iterable[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {f"p{share}": percentile(known, share / 100) for share in (50, 95, 99)}
