"""Numbers and findings in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdcache.reports.report import Report

MEANING = {
    "retokenised": "the next prompt holds the answer in other tokens than were served",
    "page_tail": "tokens behind the last whole page are not kept",
    "answers_not_kept": "this mode keeps prompts, not answers",
    "reuse_off": "the run asked for no reuse",
    "wrong_worker": "there is no L3, and another prefill worker had the pages",
    "store_down": "the store did not answer while the pages were written or read",
    "below_threshold": "the part in L3 was shorter than prefetch_threshold, so it was not read",
    "not_yet_written": "the turn came before the pages were in L3",
    "evicted": "the tiers were too small, or the store evicted",
    "read_cut_short": "prefill gave up reading from L3: no time, no room, or an error",
    "unexplained": "nothing that was recorded explains it",
}
"""What each loss means."""


def loss_label(name: str) -> str:
    """`page_tail` as `page tail`."""
    return name.replace("_", " ").replace("retokenised", "re-tokenised answer")


def tokens(count: float) -> str:
    """`12,345`, from ten thousand on `12.3k`, from a million on `1.23M`."""
    if count >= 1e6:
        return f"{count / 1e6:.2f}M"
    return f"{count / 1e3:.1f}k" if count >= 1e4 else f"{count:,.0f}"


def percent(share: float | None) -> str:
    """`97.5 %`; whole from 99.95 % on, a dash for none."""
    if share is None:
        return "-"
    return f"{share * 100:.0f} %" if abs(share - round(share)) < 5e-4 else f"{share * 100:.1f} %"


def duration(seconds: float | None) -> str:
    """`1.25 s` or `840 ms`; a dash for none."""
    if seconds is None:
        return "-"
    if seconds == 0:
        return "0"
    if seconds >= 0.9995:
        return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.1 else f"{seconds * 1e3:.1f} ms"


def quantity(value: float | None, kind: str) -> str:
    """A value as its kind is read: `share`, `seconds` or `rate`."""
    if value is None:
        return "-"
    if kind == "share":
        return percent(value)
    return duration(value) if kind == "seconds" else f"{value:.1f}"


def estimate_text(number: Mapping[str, Any] | None, kind: str) -> str:
    """`1.39 s ± 40 ms *`; the star says that it lies apart from the first group's."""
    if number is None:
        return "-"
    text = quantity(number["mean"], kind)
    if number["high"] is not None:
        text += f" ± {quantity(number['high'] - number['mean'], kind)}"
    return text + (" *" if number["differs_from_first"] else "")


def headline(report: Report) -> str:
    """The result in two sentences."""
    total = report["total"]
    if not total["requests"]:
        return "No later turn was completed, so there was nothing to reuse."
    hit = sum(total["cached_tokens"].values())
    if not report["reuse"]:
        text = "Reuse was switched off: every request was computed from its first token."
    elif not total["ceiling_tokens"]:
        text = "No page of a later turn could have been reused in this mode."
    else:
        text = (
            f"From the second turn on, {percent(total['hit_over_ceiling'])} of what this mode "
            f"could reuse was reused: {tokens(hit)} of {tokens(total['ceiling_tokens'])} prompt "
            f"tokens, {percent(total['hit_over_prompt'])} of all that was sent."
        )
    return f"{text} {_largest_loss(total, report['reuse'])}".strip()


def _largest_loss(total: dict[str, Any], reuse: bool) -> str:
    lost = {name: total["losses"][f"{name}_tokens"] for name in MEANING}
    name = max(lost, key=lambda key: lost[key])
    if not reuse or not lost[name]:
        return ""
    share = lost[name] / total["losses"]["offered_tokens"]
    return (
        f"The largest loss is “{loss_label(name)}” with {tokens(lost[name])} tokens, "
        f"{percent(share)} of what the dialogues offered: {MEANING[name]}."
    )
