"""The timeline of a run: counters over time, rates between samples, outages."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from pdcache.reports.run_folder import Sample

Point = tuple[float, float]

# A sample may be late on a busy machine; one that is missed three times in a row was not answered.
_MISSED = 3.5


@dataclass(frozen=True)
class Counter:
    """A counter over all workers, as its growth since the first sample; straight in between."""

    points: tuple[Point, ...]

    def at(self, at_s: float) -> float:
        """Growth up to `at_s`; flat before the first sample and after the last."""
        if not self.points:
            return 0.0
        place = bisect_right(self.points, at_s, key=lambda point: point[0])
        if place == 0:
            return self.points[0][1]
        if place == len(self.points):
            return self.points[-1][1]
        (left_s, left), (right_s, right) = self.points[place - 1], self.points[place]
        return left + (right - left) * (at_s - left_s) / (right_s - left_s)

    def most_between(self, begin_s: float, end_s: float) -> float:
        """The most it can have grown: from the sample before the span to the one after it."""
        before = [value for at_s, value in self.points if at_s <= begin_s]
        after = [value for at_s, value in self.points if at_s >= end_s]
        low = before[-1] if before else 0.0
        return (after[0] if after else self.points[-1][1] if self.points else 0.0) - low

    def least_from(self, at_s: float) -> float:
        """Its lowest value in the samples from `at_s` on; its last one when there are none."""
        later = [value for sample_s, value in self.points if sample_s >= at_s]
        return min(later) if later else self.at(at_s)

    def rates(self) -> tuple[Point, ...]:
        """Growth a second between samples, at the later one's time."""
        return tuple(
            (right_s, (right - left) / (right_s - left_s))
            for (left_s, left), (right_s, right) in zip(self.points, self.points[1:], strict=False)
        )


NOT_SAMPLED = Counter(())


def named(name: str) -> Callable[[str], bool]:
    """Matches a metric by its bare name, with SGLang's prefix and labels or without."""
    return lambda metric: metric.removeprefix("sglang:").partition("{")[0] == name


def counter(samples: Iterable[Sample], matches: Callable[[str], bool], roles: str = "") -> Counter:
    """Sum of the counters whose name `matches`, over all workers of `roles` (all if empty).

    A counter that falls was that of a worker that started again: its growth goes on from there.
    """
    grown: dict[float, float] = defaultdict(float)
    last: dict[tuple[str, str], float] = {}
    for sample in samples:
        if roles and sample.role not in roles.split():
            continue
        for name, value in sample.values.items():
            if matches(name):
                before = last.get((sample.worker, name))
                last[sample.worker, name] = value
                step = 0.0 if before is None else value - before if value >= before else value
                grown[sample.at_s] += step
    total = 0.0
    points = []
    for at_s in sorted(grown):
        total += grown[at_s]
        points.append((at_s, total))
    return Counter(tuple(points))


def gauge(samples: Iterable[Sample], matches: Callable[[str], bool]) -> tuple[Point, ...]:
    """Sum of the newest values of all workers whose metric's name `matches`."""
    newest: dict[tuple[str, str], float] = {}
    sums: dict[float, float] = {}
    for sample in samples:
        for name, value in sample.values.items():
            if matches(name):
                newest[sample.worker, name] = value
                sums[sample.at_s] = sum(newest.values())
    return tuple(sums.items())


def outages(samples: Sequence[Sample], role: str) -> tuple[tuple[float, float], ...]:
    """Spans in which some worker of `role` gave no sample, as (from, to) in seconds.

    A span begins when the first of several samples was due and ends with the next that came.
    """
    ends_s = max((sample.at_s for sample in samples), default=0.0)
    times: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        if sample.role == role and sample.values:
            times[sample.worker].append(sample.at_s)
    found = []
    for seen in times.values():
        gaps = [right - left for left, right in itertools.pairwise(seen)]
        if not gaps:
            continue
        usual = median(gaps)
        closed = [*seen, ends_s] if ends_s > seen[-1] else seen
        for left, right in itertools.pairwise(closed):
            if right - left > _MISSED * usual:
                found.append((left + usual, right))
    return tuple(sorted(found))


def overlaps(spans: Iterable[tuple[float, float]], begin_s: float, end_s: float) -> bool:
    """Whether any span shares a moment with [begin_s, end_s]."""
    return any(left <= end_s and begin_s <= right for left, right in spans)
