"""The waterfall: from what the dialogues offered down to what was served."""

from __future__ import annotations

from html import escape

from pdcache.reports.losses import NAMES
from pdcache.reports.report import Report
from pdcache.reports.svg import Scale, svg
from pdcache.reports.words import MEANING, loss_label, percent, tokens

_ROW, _WIDTH, _LEFT, _RIGHT = 34, 1080, 240, 170
_ABOVE_CEILING = ("retokenised", "page_tail", "answers_not_kept")


def waterfall(report: Report) -> str:
    """A bar a loss that is not 0, between the levels it leads from and to."""
    lost = report["losses"]
    offered = lost["offered_tokens"]
    rows: list[tuple[str, str, int, int, str]] = []
    level = offered
    rows.append(("offered", "level", 0, offered, "prompts and answers of the turns before"))
    for name in NAMES:
        if name == "reuse_off" and level < offered:
            text = f"ceiling of {report['mode']}, in whole pages"
            rows.append(("ceiling", "level", 0, level, text))
        tokens_lost = lost[f"{name}_tokens"]
        if tokens_lost:
            css = "given" if name in _ABOVE_CEILING else "loss"
            rows.append((loss_label(name), css, level - tokens_lost, level, MEANING[name]))
        level -= tokens_lost
    rows.append(("served", "served", 0, level, "prompt tokens that came from a cache"))
    scale = Scale(0, offered or 1, _LEFT, _WIDTH - _RIGHT)
    body = "".join(
        _row(index, row, scale, offered, last=index == len(rows) - 1)
        for index, row in enumerate(rows)
    )
    told = "; ".join(f"{label} {tokens(high - low)}" for label, _, low, high, _ in rows)
    return svg("waterfall", "Losses", told, _WIDTH, _ROW * len(rows) + 8, body)


def _row(
    index: int, row: tuple[str, str, int, int, str], scale: Scale, offered: int, *, last: bool
) -> str:
    label, css, low, high, meaning = row
    top = index * _ROW + 4
    left, right = scale(low), scale(high)
    share = percent((high - low) / offered if offered else None)
    sign = "-" if css in ("given", "loss") else ""
    told = f"{meaning[0].upper()}{meaning[1:]}."
    tip = escape(f"{label}: {sign}{high - low:,} tokens ({share}). {told}")
    edge = left if sign else right
    to_next = (
        "" if last
        else f'<line class="step" x1="{edge}" x2="{edge}" y1="{top + 25}" y2="{top + _ROW}"/>'
    )  # fmt: skip
    return (
        f'<text class="name" x="{_LEFT - 12}" y="{top + 17}" text-anchor="end">'
        f"{escape(label)}</text>"
        f'<rect class="bar {css}" x="{left}" y="{top}" width="{max(1.5, round(right - left, 2))}" '
        f'height="25" rx="2" data-tip="{tip}"/>'
        f'<text class="value" x="{_WIDTH - _RIGHT + 12}" y="{top + 17}">'
        f"{sign}{tokens(high - low)} <tspan>{share}</tspan></text>{to_next}"
    )
