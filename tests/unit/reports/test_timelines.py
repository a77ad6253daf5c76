from __future__ import annotations

import pytest

from pdcache.reports.run_folder import Sample
from pdcache.reports.timeline import counter, gauge, named, outages


def samples(*values: tuple[float, str, float]) -> list[Sample]:
    return [Sample(at, worker, "prefill", {"sglang:n_total": n}) for at, worker, n in values]


def test_counters_of_workers_add_up_from_their_first_sample() -> None:
    grown = counter(
        samples((0, "a", 100), (0, "b", 5), (1, "a", 110), (1, "b", 5), (2, "a", 130), (2, "b", 6)),
        named("n_total"),
    )
    assert grown.points == ((0, 0), (1, 10), (2, 31))
    assert grown.rates() == ((1, 10), (2, 21))
    assert [grown.at(at) for at in (-1, 0.5, 9)] == [0, 5, 31]


def test_a_worker_that_started_again_does_not_take_back_what_was_counted() -> None:
    assert counter(samples((0, "a", 50), (1, "a", 60), (2, "a", 4)), named("n_total")).at(2) == 14


def test_a_gauge_adds_the_newest_of_each_worker() -> None:
    assert gauge(samples((0, "a", 1), (1, "b", 2), (2, "a", 5)), named("n_total")) == (
        (0, 1),
        (1, 3),
        (2, 7),
    )


@pytest.mark.parametrize(
    ("missing", "expected"),
    [((), ()), ((5,), ()), ((4, 5, 6), ((4, 7),)), ((7, 8, 9, 10), ((7, 10),))],
)
def test_a_store_that_is_silent_for_three_samples_is_down(
    missing: tuple[int, ...], expected: tuple[tuple[int, int], ...]
) -> None:
    of = [Sample(at, "store", "store", {"x": 1}) for at in range(11) if at not in missing]
    of += [Sample(at, "prefill-0", "prefill", {"x": 1}) for at in range(11)]
    assert outages(sorted(of, key=lambda sample: sample.at_s), "store") == expected
