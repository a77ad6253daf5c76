"""The charts of a report that stand on turns and requests."""

from __future__ import annotations

from collections.abc import Sequence

from pdcache.replay.records import RequestRecord
from pdcache.reports.goodput import Slo
from pdcache.reports.report import TIERS, Report
from pdcache.reports.svg import Frame, above, chart
from pdcache.reports.words import duration, percent, tokens

TIER_NAMES = {"device": "L1 device", "host": "L2 host", "storage": "L3 storage"}


def reuse_by_turn(report: Report) -> str:
    """Prompt tokens a request, by turn: from which tier they came, under the ceiling."""
    turns = [turn for turn in report["turns"] if turn["requests"]]
    means = [turn["prompt_tokens"] / turn["requests"] for turn in turns]
    frame = Frame(x_low=0.5, x_high=len(turns) + 0.5, y_high=above(means))
    body = frame.y_axis("tokens a request", tokens)
    body += frame.x_axis("turn", [(i, str(turn["turn"])) for i, turn in enumerate(turns, start=1)])
    for place, (turn, prompt) in enumerate(zip(turns, means, strict=True), start=1):
        count, number = turn["requests"], turn["turn"]
        tip = f"turn {number}: prompt, {tokens(prompt)} tokens"
        body += frame.bar(place, 0.32, 0, prompt, "prompt", tip)
        low = 0.0
        for tier in TIERS:
            mean = turn["cached_tokens"][tier] / count
            if mean:
                tip = f"turn {number}: {tokens(mean)} tokens from {TIER_NAMES[tier]}"
                body += frame.bar(place, 0.32, low, low + mean, tier, tip)
            low += mean
        ceiling = turn["ceiling_tokens"] / count
        if ceiling:
            tip = (
                f"turn {number}: ceiling {tokens(ceiling)} tokens, "
                f"hit / ceiling {percent(turn['hit_over_ceiling'])}"
            )
            y = frame.y(ceiling)
            left, right = frame.x(place - 0.42), frame.x(place + 0.42)
            body += (
                f'<line class="ceiling" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>'
                f'<rect class="target" x="{left}" y="{y - 6}" width="{right - left}" height="12" '
                f'data-tip="{tip}"/>'
            )
    told = "; ".join(
        f"turn {t['turn']}: {percent(t['hit_over_ceiling'])} of the ceiling" for t in turns
    )
    return chart("reuse", "Reused prompt tokens by turn and tier", told, frame, body)


def ttft_by_turn(report: Report) -> str:
    """Seconds to the first token by turn: p50, and p95 above it."""
    turns = [turn for turn in report["turns"] if turn["ttft_s"]["p50"] is not None]
    high = above(turn["ttft_s"]["p95"] for turn in turns)
    frame = Frame(x_low=0.5, x_high=len(turns) + 0.5, y_high=high)
    body = frame.y_axis("TTFT", duration)
    body += frame.x_axis("turn", [(i, str(turn["turn"])) for i, turn in enumerate(turns, start=1)])
    p50 = [(i, turn["ttft_s"]["p50"]) for i, turn in enumerate(turns, start=1)]
    p95 = [(i, turn["ttft_s"]["p95"]) for i, turn in enumerate(turns, start=1)]
    for (place, low), (_, upper), turn in zip(p50, p95, turns, strict=True):
        tip = f"turn {turn['turn']}: p50 {duration(low)}, p95 {duration(upper)}"
        body += frame.bar(place, 0.06, low, upper, "range", tip)
    body += frame.line(p95, "p95") + frame.line(p50, "p50")
    for (place, low), (_, upper), turn in zip(p50, p95, turns, strict=True):
        number = turn["turn"]
        body += frame.dot(place, upper, "p95", f"turn {number}: p95 {duration(upper)}")
        body += frame.dot(place, low, "p50", f"turn {number}: p50 {duration(low)}", 5)
    told = "; ".join(f"turn {t['turn']}: p50 {duration(t['ttft_s']['p50'])}" for t in turns)
    return chart("ttft", "Time to first token by turn", told, frame, body)


def distribution(name: str, title: str, groups: Sequence[tuple[str, str, Sequence[float]]],
                 limit_s: float | None) -> str:  # fmt: skip
    """Share of requests that took at most so long, a line a group of (label, class, seconds)."""
    known = [(label, css, sorted(values)) for label, css, values in groups if values]
    longest = above((values[-1] for _, _, values in known), limit_s or 0.0)
    frame = Frame(x_high=longest, y_high=1.0, width=400)
    body = frame.y_axis("share of requests", percent, 4)
    body += frame.number_axis(title, duration, 4)
    for label, css, values in known:
        shares = [(value, (i + 1) / len(values)) for i, value in enumerate(values)]
        steps = [(0.0, 0.0), *shares, (longest, 1.0)]
        body += frame.line(steps, css, steps=True)
        every = max(1, len(shares) // 40)
        for value, share in shares[::every]:
            tip = f"{label}: {percent(share)} within {duration(value)}"
            body += frame.dot(value, share, css, tip, 3)
    if limit_s is not None:
        body += frame.rule(limit_s, "slo", f"SLO {duration(limit_s)}")
    told = "; ".join(f"{label}: half within {duration(v[len(v) // 2])}" for label, _, v in known)
    return chart(name, f"{title}, cumulative", told, frame, body)


def promises(records: Sequence[RequestRecord], slo: Slo) -> str:
    """Every request by its time to first token and its time a token, against the SLO."""
    shown = [(r, r.ttft_s, r.tpot_s or 0.0) for r in records if r.ttft_s is not None]
    frame = Frame(
        x_high=above((ttft for _, ttft, _ in shown), slo.ttft_s or 0.0),
        y_high=above((tpot for _, _, tpot in shown), slo.tpot_s or 0.0),
        width=400,
    )
    body = frame.y_axis("TPOT", duration) + frame.number_axis("TTFT", duration, 4)
    right = frame.x_high if slo.ttft_s is None else slo.ttft_s
    top = frame.y_high if slo.tpot_s is None else slo.tpot_s
    body += (
        f'<rect class="within" x="{frame.x(0)}" y="{frame.y(top)}" '
        f'width="{frame.x(right) - frame.x(0)}" height="{frame.y(0) - frame.y(top)}"/>'
    )
    for record, ttft, tpot in shown:
        css = "met" if slo.met_by(record) else "missed"
        tip = f"{record.session}, turn {record.turn}: TTFT {duration(ttft)}, TPOT {duration(tpot)}"
        body += frame.dot(ttft, tpot, css, tip)
    met = sum(slo.met_by(record) for record in records)
    told = f"{met} of {len(records)} meet it"
    return chart("goodput", "Requests against the SLO", told, frame, body)
