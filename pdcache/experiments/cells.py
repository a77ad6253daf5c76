"""The cells of an experiment, and the order in which they run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from pdcache.experiments.spec import Arm, Experiment, Value


@dataclass(frozen=True)
class Cell:
    """One topology as it is brought up.

    Attributes:
        name: its own, with the values of a sweep behind it: `offload,page_size=64`.
        topology: the file.
        overrides: what is laid over it, each `a.b=VALUE`.
        up: further options of `pdcache up`.
        reuse: whether requests may reuse each other's KV.
    """

    name: str
    topology: Path
    overrides: tuple[str, ...]
    up: tuple[str, ...]
    reuse: bool


@dataclass(frozen=True)
class Group:
    """A cell in an arm: what the repetitions of the comparison have in common."""

    cell: Cell
    arm: Arm
    name: str


@dataclass(frozen=True)
class Step:
    """A cluster that is brought up, loaded in each of its groups, and brought down."""

    cell: Cell
    repetition: int
    groups: tuple[Group, ...]

    @property
    def name(self) -> str:
        """`CELL/REPETITION`."""
        return f"{self.cell.name}/{self.repetition}"


def cells(experiment: Experiment) -> list[Cell]:
    """Every cell, a sweep as the product of its values."""
    found = []
    for spec in experiment.cells:
        for values in itertools.product(*spec.sweep.values()):
            swept = [f"{key}={_yaml(value)}" for key, value in zip(spec.sweep, values, strict=True)]
            name = ",".join([spec.name, *map(_last_key, swept)]).replace("/", "_")
            overrides = (*spec.set, *swept)
            found.append(Cell(name, spec.topology, overrides, tuple(spec.up), spec.reuse))
    return found


def groups(experiment: Experiment) -> list[Group]:
    """Every cell in every arm, arm by arm: what is compared stands together."""
    several = len(experiment.arms) > 1
    return [
        Group(cell, arm, f"{cell.name}-{arm}" if several else cell.name)
        for arm in experiment.arms
        for cell in cells(experiment)
    ]


def schedule(experiment: Experiment) -> list[Step]:
    """All steps in turns: each cell once, then each cell again.

    What drifts over time (heat, other load) then falls on all cells alike. The order of the arms
    turns with every repetition.
    """
    of_cell = {
        cell.name: [group for group in groups(experiment) if group.cell.name == cell.name]
        for cell in cells(experiment)
    }
    return [
        Step(cell, repetition, tuple(_turned(of_cell[cell.name], repetition)))
        for repetition in range(experiment.repetitions)
        for cell in cells(experiment)
    ]


def _turned(of: list[Group], by: int) -> list[Group]:
    by %= len(of)
    return of[by:] + of[:by]


def _last_key(setting: str) -> str:
    key, _, value = setting.partition("=")
    return f"{key.rpartition('.')[2]}={value}"


def _yaml(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
