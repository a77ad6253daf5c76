"""full_offload reaches its ceiling on every later turn, hot and flushed, here and elsewhere."""

from __future__ import annotations

import pytest

from pdcache.plan import Plan, Process
from pdcache.topology import Role
from tests.dialogues import Running, assert_full_reuse, dialogue


def same(plan: Plan, turn: int) -> Process:
    return plan.role(Role.PREFILL)[0]


def alternating(plan: Plan, turn: int) -> Process:
    prefills = plan.role(Role.PREFILL)
    return prefills[turn % len(prefills)]


@pytest.mark.parametrize("answer", [128, 40])
@pytest.mark.parametrize("flushed", [False, True], ids=["hot", "flushed"])
@pytest.mark.parametrize("place", [same, alternating])
def test_turns_two_to_four_reach_the_ceiling(
    running: Running, answer: int, flushed: bool, place: object
) -> None:
    seed = hash((answer, flushed, place is same)) & 0xFFFF
    turns = dialogue(
        running,
        answer=answer,
        flushed=flushed,
        prefill_of=lambda turn: (same if place is same else alternating)(running.plan, turn),
        seed=seed,
    )
    assert_full_reuse(turns)
    if flushed:
        assert all(turn.storage == turn.ceiling for turn in turns[1:])
    elif place is same:
        assert all(turn.device > 0 and turn.storage > 0 for turn in turns[1:])
