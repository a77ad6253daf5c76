"""Distributions by name, as `lognormal:mean=200,sigma=0.5`; the same draws on every machine."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from statistics import NormalDist

from pdcache.errors import ReplayError

_MOST_VALUES = 100_000
_MOST_MEAN = 500.0


@dataclass(frozen=True)
class Distribution:
    """Draws numbers from 0; `text` is how it is written."""

    text: str
    _quantile: Callable[[float], float]

    @classmethod
    def parse(cls, text: str, where: str = "distribution") -> Distribution:
        """One of FORMS, or a number for one that is always the same.

        Raises:
            ReplayError: the name, a parameter or a value is wrong; says which.
        """
        name, _, rest = text.partition(":")
        if not rest and name not in FORMS:
            name, rest = "constant", f"value={text}"
        form = FORMS.get(name)
        if form is None:
            raise ReplayError(
                f"there is no distribution {name!r}.",
                where=where,
                remedy=f"Give a number or one of {', '.join(f.example for f in FORMS.values())}.",
            )
        values: list[float] = []
        given = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        for parameter, (low, high) in form.parameters.items():
            value = _value(given.pop(parameter, ""))
            if value is None or not low <= value <= high:
                raise ReplayError(
                    f"{text!r}: {parameter} is no number from {low:g} to {high:g}.",
                    where=where,
                    remedy=f"Write as {form.example}.",
                )
            values.append(value)
        if given:
            raise ReplayError(
                f"{text!r}: {next(iter(given))!r} is no parameter of {name}.",
                where=where,
                remedy=f"Write as {form.example}.",
            )
        if name == "uniform" and values[0] > values[1]:
            raise ReplayError(
                f"{text!r}: low is above high.", where=where, remedy=f"Write as {form.example}."
            )
        return cls(text, form.quantile(*values))

    def draw(self, rng: Random) -> float:
        """One number; takes exactly one draw of `rng`."""
        # Random.random() is the one draw whose sequence Python promises to keep.
        return self._quantile(min(max(rng.random(), 1e-12), 1 - 1e-12))

    def whole(self, rng: Random, low: int = 1) -> int:
        """One number, rounded, at least `low`."""
        return max(low, round(self.draw(rng)))


def drawn(size: int | Distribution, rng: Random, low: int = 1) -> int:
    """A whole number, at least `low`: the given one, or one that is drawn."""
    return size.whole(rng, low) if isinstance(size, Distribution) else size


@dataclass(frozen=True)
class Form:
    """A kind of distribution: its parameters with their ranges, and their quantile function."""

    example: str
    parameters: dict[str, tuple[float, float]]
    quantile: Callable[..., Callable[[float], float]]


def parse_arrivals(text: str, where: str = "arrivals") -> Distribution:
    """Seconds between arrivals: `poisson:rate=2`, `constant:rate=2`, or any distribution of them.

    Raises:
        ReplayError: as `Distribution.parse`.
    """
    name, _, rest = text.partition(":rate=")
    if name in ("poisson", "constant") and rest:
        rate = _value(rest)
        if rate is None or not 1e-6 <= rate <= 1e6:
            raise ReplayError(
                f"{text!r}: rate is no number from 1e-06 to 1e+06.",
                where=where,
                remedy=f"Write as {name}:rate=2, in arrivals a second.",
            )
        form = "exponential:mean" if name == "poisson" else "constant:value"
        return Distribution.parse(f"{form}={1 / rate!r}", where)
    return Distribution.parse(text, where)


def _value(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _constant(value: float) -> Callable[[float], float]:
    return lambda share: value


def _uniform(low: float, high: float) -> Callable[[float], float]:
    return lambda share: low + (high - low) * share


def _exponential(mean: float) -> Callable[[float], float]:
    return lambda share: -mean * math.log(1 - share)


def _lognormal(mean: float, sigma: float) -> Callable[[float], float]:
    # The mean of the numbers themselves, not of their logarithms.
    middle = math.log(mean) - sigma * sigma / 2
    return lambda share: math.exp(middle + sigma * NormalDist().inv_cdf(share))


def _zipf(alpha: float, most: float) -> Callable[[float], float]:
    return _steps([rank**-alpha for rank in range(1, int(most) + 1)], first=1)


def _poisson(mean: float) -> Callable[[float], float]:
    most = int(mean + 12 * math.sqrt(mean) + 20)
    logs = (count * math.log(mean) - mean - math.lgamma(count + 1) for count in range(most))
    return _steps([math.exp(log) for log in logs], first=0)


def _steps(weights: list[float], first: int) -> Callable[[float], float]:
    """Whole numbers from `first`, each with its weight."""
    sums = list(accumulate(weights))
    return lambda share: float(first + min(bisect_left(sums, share * sums[-1]), len(sums) - 1))


_NUMBER = (0.0, 1e9)
FORMS = {
    "constant": Form("constant:value=200", {"value": _NUMBER}, _constant),
    "uniform": Form("uniform:low=100,high=300", {"low": _NUMBER, "high": _NUMBER}, _uniform),
    "exponential": Form("exponential:mean=5", {"mean": _NUMBER}, _exponential),
    "lognormal": Form(
        "lognormal:mean=200,sigma=0.5", {"mean": (1e-6, 1e9), "sigma": (0.0, 5.0)}, _lognormal
    ),
    "zipf": Form(
        "zipf:alpha=1.2,max=50", {"alpha": (0.0, 10.0), "max": (1.0, _MOST_VALUES)}, _zipf
    ),
    "poisson": Form("poisson:mean=4", {"mean": (1e-6, _MOST_MEAN)}, _poisson),
}
