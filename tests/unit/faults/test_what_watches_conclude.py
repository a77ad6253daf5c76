"""From numbers to conclusions: slow workers, lost pages, failed writes."""

from __future__ import annotations

from golden.plans import golden_plan

from pdcache.faults.contents import Contents, holding_processes
from pdcache.faults.slow import LOOKS, Streak, paces_behind
from pdcache.faults.writes import SETTLED_LOOKS, Gap

# --- workers that are slow


def test_a_worker_that_is_three_times_slower_than_its_peers_is_behind() -> None:
    assert paces_behind({"a": 10.0, "b": 31.0}) == {"a": 31.0}
    assert paces_behind({"a": 10.0, "b": 30.0, "c": 29.0}) == {}
    assert paces_behind({"a": 1.0}) == {}
    assert paces_behind({}) == {}


def test_most_being_slow_is_how_fast_they_are() -> None:
    assert paces_behind({"a": 1.0, "b": 1.0, "c": 10.0}) == {}


def test_a_worker_is_slow_after_many_looks_and_well_after_as_many() -> None:
    streak = Streak()
    looks = [*[True] * (LOOKS - 1), False, *[True] * LOOKS, *[False] * LOOKS]
    told = [streak.look(slow) for slow in looks]
    assert told == [*[False] * (2 * LOOKS - 1), *[True] * LOOKS, False]


# --- what the store holds


def test_a_store_that_grows_shrinks_a_little_or_does_not_tell_lost_nothing() -> None:
    before = Contents({"store-master": 1}, 1000)
    for keys in (1000, 2000, 600, None):
        assert Contents({"store-master": 1}, keys).lost(before) is None
    assert Contents({}, 0).lost(Contents({}, 0)) is None
    assert Contents({}, 5).lost(Contents({}, None)) is None


def test_a_store_with_less_than_half_of_its_objects_lost_them() -> None:
    lost = Contents({"store-master": 1}, 400).lost(Contents({"store-master": 1}, 1000))
    assert lost == "the store holds 400 objects, and held 1000"


def test_a_holder_that_was_started_anew_lost_its_pages_whatever_is_counted() -> None:
    before = Contents({"store-holder-0": 1, "store-holder-1": 1}, 1000)
    lost = Contents({"store-holder-0": 1, "store-holder-1": 2}, 1000).lost(before)
    assert lost == "store-holder-1 was started anew, so pages of L3 are gone"


def test_a_master_holds_pages_only_where_no_other_takes_over() -> None:
    assert holding_processes(golden_plan("full_offload")) == ["store-master", "store-holder-0"]
    spared = holding_processes(golden_plan("mooncake_ha"))
    assert spared
    assert all(name.startswith("store-holder") for name in spared)


# --- writes


def looks(gap: Gap, *pairs: tuple[float, float]) -> list[float]:
    return [gap.look(handed, stored) for handed, stored in pairs]


def test_what_arrives_late_is_not_lost() -> None:
    gap = Gap(0, 0)
    assert looks(gap, (100, 0), (100, 50), (100, 100), *[(100, 100)] * 5) == [0] * 8


def test_what_never_arrives_is_lost_once() -> None:
    gap = Gap(0, 0)
    found = looks(gap, *[(100, 36)] * (SETTLED_LOOKS + 4))
    assert found == [0] * SETTLED_LOOKS + [64] + [0] * 3


def test_while_more_is_handed_over_nothing_is_lost_yet() -> None:
    gap = Gap(0, 0)
    assert looks(gap, *[(handed, 0) for handed in range(10, 100, 10)]) == [0] * 9


def test_what_was_missing_at_the_first_look_is_not_counted() -> None:
    gap = Gap(500, 500)
    assert looks(gap, *[(500, 0)] * 9) == [0] * 9
    assert sum(looks(gap, *[(564, 0)] * 9)) == 64


def test_a_second_loss_is_seen_too() -> None:
    gap = Gap(0, 0)
    assert sum(looks(gap, *[(100, 36)] * 9)) == 64
    assert sum(looks(gap, *[(200, 126)] * 9)) == 10
