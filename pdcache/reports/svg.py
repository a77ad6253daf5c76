"""Charts as inline SVG: scales, axes, marks. Colours come from the page's classes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Scale:
    """From values `low`..`high` to pixels `start`..`end`, linear."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixels of a value; a scale without extent puts all at its start."""
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.0
        return round(self.start + share * (self.end - self.start), 2)


@dataclass(frozen=True)
class Frame:
    """The area of a chart with its two scales, in units of the SVG's view box."""

    x_high: float
    y_high: float
    x_low: float = 0.0
    width: int = 520
    height: int = 270
    left: int = 74
    right: int = 14
    top: int = 16
    bottom: int = 40

    @property
    def x(self) -> Scale:
        """Values to places from the left."""
        return Scale(self.x_low, self.x_high, self.left, self.width - self.right)

    @property
    def y(self) -> Scale:
        """Values to places from the top."""
        return Scale(0.0, self.y_high, self.height - self.bottom, self.top)

    def y_axis(self, label: str, shown: Callable[[float], str], count: int = 5) -> str:
        """Grid lines with their values, and what they are."""
        right = self.width - self.right
        parts = [
            f'<line class="grid" x1="{self.left}" x2="{right}" y1="{self.y(v)}" y2="{self.y(v)}"/>'
            f'<text class="tick" x="{self.left - 8}" y="{self.y(v) + 4}" '
            f'text-anchor="end">{escape(shown(v))}</text>'
            for v in ticks(self.y_high, count)
        ]
        middle = (self.top + self.height - self.bottom) / 2
        parts.append(
            f'<text class="axis" transform="translate(12 {middle}) rotate(-90)" '
            f'text-anchor="middle">{escape(label)}</text>'
        )
        return "".join(parts)

    def x_axis(self, label: str, marks: Iterable[tuple[float, str]]) -> str:
        """Texts at places, and what they are."""
        low = self.height - self.bottom
        parts = [f'<line class="base" x1="{self.left}" x2="{self.width - self.right}" '
                 f'y1="{low}" y2="{low}"/>']  # fmt: skip
        parts += [
            f'<text class="tick" x="{self.x(place)}" y="{low + 17}" text-anchor="middle">'
            f"{escape(text)}</text>"
            for place, text in marks
        ]
        middle = (self.left + self.width - self.right) / 2
        parts.append(
            f'<text class="axis" x="{middle}" y="{self.height - 5}" '
            f'text-anchor="middle">{escape(label)}</text>'
        )
        return "".join(parts)

    def number_axis(self, label: str, shown: Callable[[float], str], count: int = 6) -> str:
        """An x axis of round numbers."""
        marks = [(value, shown(value)) for value in ticks(self.x_high, count)]
        return self.x_axis(label, marks)

    def line(self, points: Sequence[tuple[float, float]], css: str, *, steps: bool = False) -> str:
        """A line through points; with `steps` it holds each value until the next."""
        if not points:
            return ""
        path = f"M{self.x(points[0][0])} {self.y(points[0][1])}"
        for (_, before), (x, y) in itertools.pairwise(points):
            if steps:
                path += f"L{self.x(x)} {self.y(before)}"
            path += f"L{self.x(x)} {self.y(y)}"
        return f'<path class="line {css}" d="{path}"/>'

    def dot(self, x: float, y: float, css: str, tip: str, radius: float = 4) -> str:
        """A point with words for it."""
        return (
            f'<circle class="dot {css}" cx="{self.x(x)}" cy="{self.y(y)}" r="{radius}" '
            f'data-tip="{escape(tip)}"/>'
        )

    def bar(self, x: float, half: float, low: float, high: float, css: str, tip: str) -> str:
        """An upright bar around `x`, `half` its width in values of x."""
        left, right = self.x(x - half), self.x(x + half)
        top, bottom = self.y(high), self.y(low)
        return (
            f'<rect class="bar {css}" x="{left}" y="{top}" width="{round(right - left, 2)}" '
            f'height="{max(0.0, round(bottom - top, 2))}" data-tip="{escape(tip)}"/>'
        )

    def rule(self, x: float, css: str, text: str) -> str:
        """An upright line over the whole height, named at its top."""
        place = self.x(x)
        near_end = place > self.width - 110
        return (
            f'<line class="{css}" x1="{place}" x2="{place}" y1="{self.top}" '
            f'y2="{self.height - self.bottom}"/><text class="note" '
            f'x="{place + (-5 if near_end else 5)}" y="{self.top + 9}" '
            f'text-anchor="{"end" if near_end else "start"}">{escape(text)}</text>'
        )


def chart(name: str, title: str, told: str, frame: Frame, body: str) -> str:
    """An SVG that a screen reader announces by `title` and `told`."""
    return svg(name, title, told, frame.width, frame.height, body)


def svg(name: str, title: str, told: str, width: float, height: float, body: str) -> str:
    """An SVG of a given size that scales with the page."""
    return (
        f'<svg class="chart" id="{name}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}. {escape(told)}">{body}</svg>'
    )


def ticks(high: float, count: int = 5) -> list[float]:
    """Round values from 0 to at most `high`, about `count` of them."""
    if high <= 0:
        return [0.0]
    raw = high / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * size for size in (1, 2, 2.5, 5, 10) if power * size >= raw * 0.999)
    return [step * index for index in range(int(high / step * 1.0001) + 1)]


def above(values: Iterable[float], at_least: float = 0.0) -> float:
    """A little more than the largest value, so that its mark stands free."""
    return max([at_least, *values]) * 1.08 or 1.0
