"""Percentiles, and numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value at `share` (0 to 1), linear between neighbours; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def ratio(value: float | None) -> str:
    """A ratio with three digits, a dash for none."""
    return "-" if value is None else f"{value:.3f}"


def seconds(value: float | None) -> str:
    """Seconds with two digits, three below 1 s; a dash for none."""
    return "-" if value is None else f"{value:.3f}" if value < 1 else f"{value:.2f}"


def milliseconds(value: float | None) -> str:
    """Seconds shown in milliseconds, a dash for none."""
    return "-" if value is None else f"{value * 1e3:.0f}" if value >= 0.1 else f"{value * 1e3:.1f}"
