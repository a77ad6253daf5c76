from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pdcache.reports import RunFolder
from pdcache.reports.ceilings import ceilings

Make = Callable[..., Path]
CASES = [
    {}, {"first": 40}, {"answer": 1}, {"first": 64, "question": 64, "answer": 64},
    {"sessions": 6, "think_s": 0.1, "speed": 150.0}, {"fail": ((1, 2),)}, {"retokenise": 30},
]  # fmt: skip


@pytest.mark.parametrize("changes", CASES)
@pytest.mark.parametrize("mode", ["prefill_only", "full_offload"])
def test_pages_give_the_ceiling_that_the_client_saw(
    made: Make, mode: str, changes: dict[str, object]
) -> None:
    run = RunFolder.read(made(mode=mode, **changes))
    of = ceilings(run)
    assert [of[r.session, r.turn].mode for r in run.requests] == [
        r.ceiling_tokens for r in run.requests
    ]
    assert any(r.ceiling_tokens for r in run.requests)


@pytest.mark.parametrize("changes", CASES)
def test_both_definitions_are_known_in_each_mode(made: Make, changes: dict[str, object]) -> None:
    plain = ceilings(RunFolder.read(made("a", mode="prefill_only", **changes)))
    for own in plain.values():
        assert own.mode == own.prompts <= own.full <= own.exact <= own.offered


def test_the_exact_ceiling_is_the_turn_before_without_its_last_token(made: Make) -> None:
    run = RunFolder.read(made(sessions=1, turns=2, first=300, answer=96, question=40))
    of = ceilings(run)["s1", 2]
    assert (of.offered, of.exact, of.full, of.prompts) == (395, 395, 384, 256)


def test_a_prompt_that_is_all_known_is_computed_from_its_last_token(made: Make) -> None:
    run = RunFolder.read(made(sessions=1, turns=2, first=128, answer=1, question=0, retokenise=1))
    second = ceilings(run)["s1", 2]
    assert run.pages["s1", 2].prompt_tokens == 129
    assert (second.exact, second.full) == (128, 128)


def test_an_answer_that_comes_back_as_other_tokens_is_offered_but_not_there(made: Make) -> None:
    of = ceilings(RunFolder.read(made(sessions=1, turns=2, retokenise=96)))["s1", 2]
    assert (of.offered, of.exact, of.full) == (395, 256, 256)


def test_without_pages_the_client_is_believed(made: Make) -> None:
    folder = made()
    (folder / "pages.jsonl").unlink()
    run = RunFolder.read(folder)
    of = ceilings(run)
    for record in run.requests:
        own = of[record.session, record.turn]
        assert own.offered == own.mode == record.ceiling_tokens
