"""Whole plans, kept as files: no argument of any process changes unseen.

A wanted change: PDCACHE_UPDATE_GOLDEN=1 python -m pytest tests/unit/plan/test_golden_plans.py
"""

from __future__ import annotations

import json
import os
import sys

import pytest
from golden.plans import GOLDEN, ROOT, comparable, golden_file, golden_plan


@pytest.mark.parametrize("name", GOLDEN)
def test_a_plan_is_the_one_that_is_kept(name: str) -> None:
    plan = comparable(golden_plan(name))
    if os.environ.get("PDCACHE_UPDATE_GOLDEN") == "1":
        golden_file(name).write_text(json.dumps(plan, indent=1) + "\n")
    assert plan == json.loads(golden_file(name).read_text())


@pytest.mark.parametrize("name", GOLDEN)
def test_the_same_input_gives_the_same_plan(name: str) -> None:
    assert golden_plan(name) == golden_plan(name)


def test_no_kept_plan_is_left_without_its_topology() -> None:
    kept = {path.stem for path in golden_file("any").parent.glob("*.json")}
    assert kept == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_kept_plan_holds_nothing_of_the_machine_it_was_made_on(name: str) -> None:
    text = golden_file(name).read_text()
    assert str(ROOT) not in text
    assert sys.prefix not in text
