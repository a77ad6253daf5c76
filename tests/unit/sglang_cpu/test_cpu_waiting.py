"""How long a scheduler pauses that has nothing to compute."""

from __future__ import annotations

import pytest

from pdcache.sglang_cpu.waiting import LONGEST_PAUSE_S, PAUSE_S, Wait


def test_pauses_grow_with_the_wait_and_stay_short():
    wait = Wait()
    pauses = [wait.pause_s(3, 1000 + waited) for waited in (0, 0.05, 0.2, 0.4, 60)]
    assert pauses == pytest.approx([PAUSE_S, PAUSE_S, 0.002, 0.004, LONGEST_PAUSE_S])


@pytest.mark.parametrize("begins", ["with a batch", "with a request after an idle time"])
def test_a_wait_begins_anew(begins):
    wait = Wait()
    wait.pause_s(3, 1000)
    assert wait.pause_s(3, 1060) == LONGEST_PAUSE_S
    if begins == "with a request after an idle time":
        wait.over()
    assert wait.pause_s(4 if begins == "with a batch" else 3, 2000) == PAUSE_S
