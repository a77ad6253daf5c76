from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from golden.plans import fixed_facts, shipped

from pdcache.checks import check
from pdcache.errors import ReplayError
from pdcache.experiments import cells, groups, load_experiment, schedule

Write = Callable[..., Path]


def test_cells_take_turns_in_every_repetition(written: Write) -> None:
    steps = schedule(load_experiment(written(repetitions=3)))
    assert [step.name for step in steps] == [
        "prefill_only/0", "full_offload/0", "prefill_only/1", "full_offload/1",
        "prefill_only/2", "full_offload/2",
    ]  # fmt: skip


def test_a_sweep_is_the_product_of_its_values(written: Write) -> None:
    cell = {
        "name": "offload", "topology": "full_offload.yaml", "set": ["prefill.workers=1"],
        "sweep": {"page_size": [64, 128], "hicache.write_back": [True, False]},
    }  # fmt: skip
    found = cells(load_experiment(written(cells=[cell])))
    assert [own.name for own in found] == [
        "offload,page_size=64,write_back=true", "offload,page_size=64,write_back=false",
        "offload,page_size=128,write_back=true", "offload,page_size=128,write_back=false",
    ]  # fmt: skip
    assert found[3].overrides == (
        "prefill.workers=1", "page_size=128", "hicache.write_back=false",
    )  # fmt: skip


def test_values_of_the_command_line_are_laid_over_every_cell(written: Write) -> None:
    cell = {
        "name": "offload", "topology": "full_offload.yaml", "set": ["gateway.port=8000"],
        "sweep": {"page_size": [64, 128]},
    }  # fmt: skip
    experiment = load_experiment(written(cells=[cell])).laying(["gateway.port=8001"])
    assert [own.overrides for own in cells(experiment)] == [
        ("gateway.port=8000", "gateway.port=8001", f"page_size={size}") for size in (64, 128)
    ]


def test_arms_are_groups_of_their_own_and_swap_their_order(written: Write) -> None:
    experiment = load_experiment(written(arms=["hot", "flushed"]))
    assert [group.name for group in groups(experiment)] == [
        "prefill_only-hot", "full_offload-hot", "prefill_only-flushed", "full_offload-flushed",
    ]  # fmt: skip
    first, _, second, _ = schedule(experiment)
    assert [group.arm for group in first.groups] == ["hot", "flushed"]
    assert [group.arm for group in second.groups] == ["flushed", "hot"]


CELL = {"name": "a", "topology": "full_offload.yaml"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"repetition": 3}, r"repetition: the key 'repetition' is unknown. Did you mean 'repetit"),
        ({"cells": [{**CELL, "topologi": 1}]}, r"cells.0.topologi: .* Did you mean 'topology'"),
        ({"load": {"generate": {}, "session": "x"}}, r"load.session: .* Did you mean 'sessions'"),
        ({"load": {}}, r"load: give either `sessions` or `generate`"),
        ({"load": {"sessions": "none.jsonl"}}, r"none.jsonl: the sessions are not there"),
        ({"cells": [{**CELL, "topology": "no.yaml"}]}, r"no.yaml: the topology of cell 'a'"),
        ({"cells": [CELL, CELL]}, r"the cell 'a' is there twice"),
        ({"cells": [{**CELL, "name": "../a"}]}, r"cells.0.name: string should match"),
        ({"cells": []}, r"cells: list should have at least 1 item"),
        ({"arms": ["warm"]}, r"arms.0: input should be 'hot' or 'flushed'"),
        ({"repetitions": 0}, r"repetitions: input should be greater than or equal to 1"),
        ({"slo": "ttft=fast"}, r"'ttft=fast' is no objective"),
    ],
)
def test_a_mistake_is_named_by_its_place(
    written: Write, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(ReplayError, match=told):
        load_experiment(written(**changes))


def test_what_is_no_yaml_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("name: a\ncells: [\n")
    with pytest.raises(ReplayError, match=r"broken.yaml:3: not YAML"):
        load_experiment(path)


def test_the_example_is_an_experiment_of_four_cells_hot_and_flushed() -> None:
    root = Path(__file__).resolve().parents[3]
    experiment = load_experiment(root / "examples/multi_turn/experiment.yaml")
    assert [cell.name for cell in cells(experiment)] == [
        "no_reuse", "prefill_only", "full_offload", "full_offload_256",
    ]  # fmt: skip
    assert experiment.arms == ["hot", "flushed"]
    for cell in cells(experiment):
        topology = shipped(cell.topology.stem, *cell.overrides)
        flag = "--skip-check="
        skipped = [word.removeprefix(flag) for word in cell.up if word.startswith(flag)]
        found = check(topology, fixed_facts(), skip=skipped)
        assert not [finding for finding in found if finding.severity == "error"], cell.name
