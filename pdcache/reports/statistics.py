"""Means over repetitions, with Student's 95 % confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

# Two-sided 95 % quantiles of Student's t by degrees of freedom, 1 to 30.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_T95_BEYOND = 1.96


class Estimate(NamedTuple):
    """A mean over `runs` repetitions; `low` and `high` bound it, None with fewer than two."""

    mean: float
    low: float | None
    high: float | None
    runs: int

    def apart_from(self, other: Estimate) -> bool:
        """Whether the intervals do not touch; False when either is unknown."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return False
        return self.low > other.high or other.low > self.high


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean of repetitions, taken to be normal around it; None without any."""
    if not values:
        return None
    mean = fmean(values)
    count = len(values)
    if count < 2:
        return Estimate(mean, None, None, count)
    t95 = _T95[count - 2] if count - 2 < len(_T95) else _T95_BEYOND
    half = t95 * stdev(values) / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half, count)
