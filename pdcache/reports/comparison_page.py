"""`comparison.json` and `comparison.html`: groups of runs side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pdcache.errors import ReplayError
from pdcache.reports.compare import METRICS, Comparison
from pdcache.reports.html import figure, page, section, table
from pdcache.reports.losses import NAMES
from pdcache.reports.svg import Frame, Scale, above, chart, svg
from pdcache.reports.words import (
    MEANING,
    duration,
    estimate_text,
    loss_label,
    percent,
    tokens,
)

_COLOURS = 8


def write_comparison(comparison: Comparison, folder: str | Path, title: str) -> None:
    """Write both files into `folder`.

    Raises:
        ReplayError: the folder cannot be written.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(comparison, indent=2) + "\n"
        (path / "comparison.json").write_text(text, encoding="utf-8")
        html = comparison_page(comparison, title)
        (path / "comparison.html").write_text(html, encoding="utf-8")
    except OSError as cause:
        raise ReplayError(
            f"the comparison cannot be written: {cause}.",
            where=str(folder),
            remedy="Give a folder that can be written.",
        ) from cause


def comparison_page(comparison: Comparison, title: str) -> str:
    """The page of a comparison."""
    groups = comparison["groups"]
    legend = [(_css(index), group["label"]) for index, group in enumerate(groups)]
    about = "Mean of the repetitions' medians; bars are 95 % intervals over repetitions."
    parts = [
        figure("Time to first token by turn", about,
               _by_turn(groups, "ttft", "TTFT p50", "ttft_p50_s", duration), legend),
        figure("Hit / ceiling by turn", "Of what each mode could serve.",
               _by_turn(groups, "reuse", "hit / ceiling", "hit_over_ceiling", percent), legend),
        section("Side by side", _numbers(comparison), "Mean ± half of the 95 % interval "
                "(Student's t) over repetitions. * The interval does not touch that of the first."),
        figure("What became of the prompt tokens that the dialogues offered",
               "Mean of a run, over all turns.", _losses(groups), wide=True),
        section("Losses", _loss_table(groups)),
        section("Answers", _answers(comparison), "Greedy answers of the same sessions; a turn "
                "whose predecessor differs had another prompt."),
    ]  # fmt: skip
    body = (
        f"<header><h1>{escape(title)}</h1><p>{len(groups)} groups, "
        f"{sum(group['runs'] for group in groups)} runs</p></header>"
        f'<p class="headline">{escape(finding(comparison))}</p>'
        + "".join(f'<p class="alert" role="note">{escape(text)}</p>' for text in _alerts(groups))
        + f'<div class="grid">{"".join(parts)}</div>'
    )
    return page(f"{title} · pdcache comparison", body)


def finding(comparison: Comparison) -> str:
    """Which group had the shortest time to first token, and whether that is more than chance."""
    known = [group for group in comparison["groups"] if "ttft_p50_s" in group["numbers"]]
    if len(known) < 2:
        return "There is nothing to compare: fewer than two groups completed a later turn."
    best, *others = sorted(known, key=lambda group: group["numbers"]["ttft_p50_s"]["mean"])
    number = best["numbers"]["ttft_p50_s"]
    parts = [
        f"{group['numbers']['ttft_p50_s']['mean'] / number['mean']:.2f} times that in "
        f"{group['label']}{'' if _apart(best, group) else ' (not apart)'}"
        for group in others
        if number["mean"]
    ]
    return (
        f"From the second turn on the first token came soonest in {best['label']}: "
        f"{duration(number['mean'])} in the median. It took {', '.join(parts)}."
    )


def _apart(a: dict[str, Any], b: dict[str, Any]) -> bool:
    left, right = a["numbers"]["ttft_p50_s"], b["numbers"]["ttft_p50_s"]
    if None in (left["low"], left["high"], right["low"], right["high"]):
        return False
    return bool(left["high"] < right["low"] or right["high"] < left["low"])


def _alerts(groups: Sequence[dict[str, Any]]) -> list[str]:
    failed = [f"{g['label']} ({g['errors']})" for g in groups if g["errors"]]
    single = [group["label"] for group in groups if group["runs"] < 2]
    return [
        *([f"Requests failed in {', '.join(failed)}."] if failed else []),
        *([f"One run only, so no interval: {', '.join(single)}."] if single else []),
    ]


def _by_turn(
    groups: Sequence[dict[str, Any]], name: str, label: str, key: str,
    shown: Callable[[float], str],
) -> str:  # fmt: skip
    numbers = sorted({turn["turn"] for group in groups for turn in group["turns"]})
    middle = (len(groups) - 1) / 2
    found = [
        (index, group, numbers.index(turn["turn"]) + 1 + (index - middle) * 0.07, turn)
        for index, group in enumerate(groups)
        for turn in group["turns"]
        if turn[key] is not None
    ]
    high = above(turn[key]["high"] or turn[key]["mean"] for *_, turn in found)
    frame = Frame(x_low=0.5, x_high=len(numbers) + 0.5, y_high=high)
    body = frame.y_axis(label, shown)
    body += frame.x_axis("turn", [(i, str(turn)) for i, turn in enumerate(numbers, start=1)])
    for index in range(len(groups)):
        points = [(place, turn[key]["mean"]) for i, _, place, turn in found if i == index]
        body += frame.line(points, _css(index))
    for index, group, place, turn in found:
        number = turn[key]
        tip = f"{group['label']}, turn {turn['turn']}: {shown(number['mean'])}"
        if number["low"] is not None:
            tip += f" ({shown(max(0.0, number['low']))} to {shown(number['high'])})"
            low = max(0.0, number["low"])
            body += frame.bar(place, 0.012, low, number["high"], _css(index), tip)
        body += frame.dot(place, number["mean"], _css(index), tip)
    return chart(name, f"{label} by turn", ", ".join(g["label"] for g in groups), frame, body)


def _numbers(comparison: Comparison) -> str:
    groups = comparison["groups"]
    rows = []
    for metric in METRICS:
        found = [group["numbers"].get(metric.name) for group in groups]
        if any(found):
            rows.append([metric.label, *(_cell(number, metric.kind) for number in found)])
    rows.append(["failed requests", *(str(group["errors"]) for group in groups)])
    return table(["", *(f"{group['label']} ({group['runs']})" for group in groups)], rows)


def _cell(number: dict[str, Any] | None, kind: str) -> str:
    text = estimate_text(number, kind)
    factor = number["factor_of_first"] if number else None
    return text if factor is None or factor == 1 else f"{text}  (x{factor:.2f})"


def _losses(groups: Sequence[dict[str, Any]]) -> str:
    width, left, row = 1080, 240, 36
    most = max((group["losses"]["offered_tokens"] for group in groups), default=0)
    scale = Scale(0, most or 1, left, width - 20)
    body = ""
    for index, group in enumerate(groups):
        lost, top, level = group["losses"], index * row + 4, 0.0
        body += (
            f'<text class="name" x="{left - 12}" y="{top + 17}" text-anchor="end">'
            f"{escape(group['label'])}</text>"
        )
        for name in ("served", *reversed(NAMES)):
            amount = lost[f"{name}_tokens"]
            if not amount:
                continue
            share = percent(amount / lost["offered_tokens"])
            tip = escape(f"{group['label']}: {loss_label(name)}, {tokens(amount)} tokens ({share})")
            css = "served" if name == "served" else "given" if _by_design(name) else "loss"
            begin, end = scale(level), scale(level + amount)
            body += (
                f'<rect class="bar {css} apart" x="{begin}" y="{top}" width="{end - begin:.2f}" '
                f'height="25" data-tip="{tip}"/>'
            )
            if end - begin > 8 * len(loss_label(name)):
                body += (
                    f'<text class="inside" x="{(begin + end) / 2}" y="{top + 17}" '
                    f'text-anchor="middle">{escape(loss_label(name))}</text>'
                )
            level += amount
    told = "; ".join(f"{g['label']} served {tokens(g['losses']['served_tokens'])}" for g in groups)
    return svg("losses", "Losses of each group", told, width, row * len(groups) + 8, body)


def _by_design(name: str) -> bool:
    return name in ("retokenised", "page_tail", "answers_not_kept", "reuse_off")


def _loss_table(groups: Sequence[dict[str, Any]]) -> str:
    keys = [name for name in NAMES if any(group["losses"][f"{name}_tokens"] for group in groups)]
    rows = [
        ["offered", *(tokens(g["losses"]["offered_tokens"]) for g in groups), ""],
        *(
            [
                loss_label(name),
                *(tokens(group["losses"][f"{name}_tokens"]) for group in groups),
                MEANING[name],
            ]
            for name in keys
        ),
        ["served", *(tokens(group["losses"]["served_tokens"]) for group in groups), ""],
    ]
    return table(["tokens a run", *(group["label"] for group in groups), ""], rows)


def _answers(comparison: Comparison) -> str:
    first = comparison["groups"][0]["label"]
    rows = [
        [
            f"{first} and {name}",
            "the same, token for token" if not found else f"{len(found)} turns differ",
        ]
        for name, found in comparison["differences"].items()
    ]
    rows += [
        [f"repetitions of {name}", "the same, token for token" if same else "differ"]
        for name, same in comparison["same_answers_within"].items()
    ]
    return table([], rows, "text")


def _css(index: int) -> str:
    return f"group-{index % _COLOURS}"
