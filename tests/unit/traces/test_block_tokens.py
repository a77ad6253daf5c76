from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdcache.errors import ReplayError
from pdcache.traces.block_tokens import BlockTokens

PINNED = [778, 396, 416, 222, 426, 904, 286, 666, 113, 600, 493, 745, 165, 392, 631, 1028, 709, 330]
ORDINARY = range(100, 1100)
IDS = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=12)


@given(ids=IDS, fill=st.integers(1, 16), before=IDS)
def test_a_block_has_the_same_tokens_wherever_it_stands(
    ids: list[int], fill: int, before: list[int]
) -> None:
    tokens = BlockTokens(ORDINARY, 16)
    n = 16 * (len(ids) - 1) + fill
    prompt = tokens.prompt(ids, n)
    assert len(prompt) == n
    assert tokens.prompt([*before, *ids], 16 * len(before) + n)[16 * len(before) :] == prompt


@given(ids=st.lists(st.integers(0, 2**63 - 1), min_size=2, max_size=2, unique=True))
def test_other_ids_give_other_tokens(ids: list[int]) -> None:
    tokens = BlockTokens(ORDINARY, 16)
    assert tokens.prompt(ids[:1], 16) != tokens.prompt(ids[1:], 16)


def test_ten_thousand_neighbouring_ids_are_all_told_apart() -> None:
    prompt = BlockTokens(ORDINARY, 8).prompt(range(10_000), 80_000)
    assert len({tuple(prompt[at : at + 8]) for at in range(0, 80_000, 8)}) == 10_000


def test_only_the_given_tokens_are_used_and_all_of_them() -> None:
    assert set(BlockTokens(ORDINARY, 512).prompt(range(100), 51_200)) == set(ORDINARY)


def test_another_process_makes_the_same_tokens() -> None:
    program = (
        "import json; from pdcache.traces.block_tokens import BlockTokens;"
        "print(json.dumps(BlockTokens(range(100, 1100), 512, seed=3).prompt([0, 9, 2**62], 1100)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True,
        env={"PYTHONHASHSEED": "77", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert json.loads(done.stdout) == BlockTokens(ORDINARY, 512, seed=3).prompt([0, 9, 2**62], 1100)


def test_the_tokens_stay_what_they_are_from_version_to_version() -> None:
    assert BlockTokens(ORDINARY, 16).prompt([0, 1], 18) == PINNED


def test_another_seed_gives_other_tokens() -> None:
    assert BlockTokens(ORDINARY, 16, 1).prompt([0], 16) != BlockTokens(ORDINARY, 16).prompt([0], 16)


def test_a_prompt_that_does_not_fit_its_blocks_is_refused() -> None:
    with pytest.raises(ReplayError, match="33 tokens take 3 blocks of 16, not 2"):
        BlockTokens(ORDINARY, 16).prompt([0, 1], 33)


@pytest.mark.parametrize(("token_ids", "block_size"), [([], 16), ([5, 5], 16), (ORDINARY, 0)])
def test_what_no_prompt_can_be_made_of_is_refused(token_ids: list[int], block_size: int) -> None:
    with pytest.raises(ReplayError):
        BlockTokens(token_ids, block_size)
