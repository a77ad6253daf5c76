"""The timeline: queues, KV transfer and backup, under the same clock."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pdcache.reports.run_folder import RunFolder
from pdcache.reports.svg import Frame, above, svg
from pdcache.reports.timeline import Point, counter, gauge, named, outages
from pdcache.reports.words import duration, tokens

_WIDTH, _PANEL, _LEFT = 1080, 118, 78
Line = tuple[str, str, Sequence[Point]]


def timeline(run: RunFolder) -> str:
    """One panel below the other; one whose metrics were not sampled is left out.

    Empty when nothing was sampled.
    """
    sampled = [(title, unit, [line for line in of if line[2]]) for title, unit, of in _all(run)]
    panels = [panel for panel in sampled if panel[2]]
    if not run.timeline or not panels:
        return ""
    ends_s = max(run.wall_s, run.timeline[-1].at_s)
    down = outages(run.timeline, "store")
    body = ""
    for index, (title, unit, lines) in enumerate(panels):
        last = index == len(panels) - 1
        panel = _panel(title, unit, lines, ends_s, down, last=last)
        body += f'<g transform="translate(0 {index * _PANEL})">{panel}</g>'
    told = ", ".join(title for title, _, _ in panels)
    return svg("timeline", "Timeline", told, _WIDTH, _PANEL * len(panels) + 30, body)


def _all(run: RunFolder) -> list[tuple[str, str, list[Line]]]:
    samples = run.timeline
    prefill = [sample for sample in samples if sample.role == "prefill"]
    decode = [sample for sample in samples if sample.role == "decode"]
    moved = counter(samples, named("kv_transfer_total_mb_sum"))
    backup = counter(samples, named("backuped_tokens_total"), "prefill")
    stored = gauge(
        [sample for sample in samples if sample.role == "store"], named("master_allocated_bytes")
    )
    return [
        ("In the workers", "requests", [
            ("queued at prefill", "queue", gauge(prefill, named("num_queue_reqs"))),
            ("running on decode", "p50", gauge(decode, named("num_running_reqs"))),
        ]),
        ("KV from prefill to decode", "MB/s", [("KV moved", "host", moved.rates())]),
        ("Backup to L3", "tokens/s", [("prefill's backup", "storage", backup.rates())]),
        ("Held by L3", "MB", [
            ("allocated", "device", [(at_s, value / 1e6) for at_s, value in stored]),
        ]),
    ]  # fmt: skip


def _panel(
    title: str, unit: str, lines: Sequence[Line], ends_s: float,
    down: Sequence[tuple[float, float]], *, last: bool,
) -> str:  # fmt: skip
    high = above(value for _, _, points in lines for _, value in points)
    frame = Frame(
        x_high=ends_s, y_high=high, width=_WIDTH, height=_PANEL + 30, left=_LEFT, top=28, bottom=38
    )
    body = frame.y_axis("", lambda value: tokens(value) if value >= 10 else f"{value:g}", 2)
    for left, right in down:
        body += (
            f'<rect class="outage" x="{frame.x(left)}" y="{frame.top}" width='
            f'"{max(2.0, frame.x(right) - frame.x(left))}" height="{_PANEL - 36}" '
            f'data-tip="store not answering, {duration(left)} to {duration(right)}"/>'
        )
    keys = ""
    place = float(_WIDTH - 14)
    for label, css, points in reversed(lines):
        body += frame.line(points, css)
        for at_s, value in points:
            tip = f"{at_s:.1f} s: {label} {value:,.1f} {unit}"
            body += frame.dot(at_s, value, f"{css} faint", tip, 4)
        keys += f'<text class="key {css}" x="{place}" y="20" text-anchor="end">'
        keys += f"{escape(label)}</text>"
        place -= 8.0 * len(label) + 20
    heading = f'<text class="name" x="{_LEFT}" y="20">{escape(title)}, {escape(unit)}</text>'
    low = frame.height - frame.bottom
    axis = (
        frame.number_axis("seconds from the start", lambda value: f"{value:g}", 10)
        if last
        else f'<line class="base" x1="{_LEFT}" x2="{_WIDTH - 14}" y1="{low}" y2="{low}"/>'
    )
    return heading + keys + body + axis
