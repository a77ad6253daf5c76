"""The experiment file: YAML, unknown keys are refused."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pdcache.errors import ReplayError
from pdcache.reports.goodput import Slo

Arm = Literal["hot", "flushed"]
# They become parts of paths.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,59}$"
Value = str | int | float | bool


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Load(_Section):
    """What every cell is loaded with: a file of sessions, or sessions made from a seed."""

    sessions: Path | None = Field(None, description="JSON lines, relative to the experiment file")
    generate: dict[str, Any] | None = Field(None, description="arguments of `generate_chat`")
    replay: dict[str, Value] = Field(
        default_factory=dict, description="options of `pdcache replay` without the dashes"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Load:
        if (self.sessions is None) == (self.generate is None):
            raise ValueError("give either `sessions` or `generate`")
        return self


class CellSpec(_Section):
    """One topology, or one for each combination of `sweep`."""

    name: str = Field(pattern=_NAME)
    topology: Path = Field(description="relative to the experiment file")
    set: list[str] = Field(default_factory=list, description="as `pdcache up --set`")
    up: list[str] = Field(default_factory=list, description="further options of `pdcache up`")
    sweep: dict[str, Annotated[list[Value], Field(min_length=1)]] = Field(
        default_factory=dict, description="key of the topology to its values"
    )
    reuse: bool = Field(True, description="false: every request is computed from its first token")


class Experiment(_Section):
    """Cells under one load.

    Each cell is run `repetitions` times, in turns: A B C A B C. In the arm `flushed`, L1 and L2 of
    the prefill workers are emptied before every turn, so that only L3 can serve.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,29}$")
    load: Load
    cells: list[CellSpec] = Field(min_length=1)
    arms: list[Arm] = Field(default_factory=lambda: list[Arm](["hot"]), min_length=1)
    repetitions: int = Field(3, ge=1)
    slo: str | None = Field(None, description="as `pdcache report --slo`")
    timeout_s: float = Field(3600.0, gt=0, description="limit of each command")

    def laying(self, values: Sequence[str]) -> Experiment:
        """The same with values, each `a.b=VALUE`, laid over the topology of every cell."""
        cells = [one.model_copy(update={"set": [*one.set, *values]}) for one in self.cells]
        return self.model_copy(update={"cells": cells})

    @model_validator(mode="after")
    def _no_doubles(self) -> Experiment:
        names = [cell.name for cell in self.cells]
        kinds: dict[str, list[str]] = {"cell": names, "arm": [*self.arms]}
        for kind, of in kinds.items():
            twice = {name for name in of if of.count(name) > 1}
            if twice:
                raise ValueError(f"the {kind} {min(twice)!r} is there twice")
        return self


def load_experiment(file: str | Path) -> Experiment:
    """Read an experiment; paths in it become relative to the working folder.

    Raises:
        ReplayError: naming the file and the key.
    """
    path = Path(file)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as cause:
        raise ReplayError(
            f"cannot read the experiment: {cause}.", where=str(file), remedy="Give a YAML file."
        ) from cause
    except yaml.YAMLError as cause:
        place = getattr(cause, "problem_mark", None)
        where = f"{file}:{place.line + 1}" if place else str(file)
        problem = getattr(cause, "problem", None) or cause
        raise ReplayError(f"not YAML: {problem}.", where=where, remedy="Mend the line.") from cause
    try:
        experiment = Experiment.model_validate(data)
    except ValidationError as cause:
        raise _refusal(cause, str(file)) from cause
    if experiment.slo is not None:
        Slo.parse(experiment.slo)
    return _from_folder(experiment, path.parent)


def _from_folder(experiment: Experiment, folder: Path) -> Experiment:
    cells = []
    for cell in experiment.cells:
        topology = folder / cell.topology
        if not topology.is_file():
            raise ReplayError(
                f"the topology of cell {cell.name!r} is not there.",
                where=str(topology),
                remedy="Paths are relative to the experiment file.",
            )
        cells.append(cell.model_copy(update={"topology": topology}))
    load = experiment.load
    if load.sessions is not None:
        sessions = folder / load.sessions
        if not sessions.is_file():
            raise ReplayError(
                "the sessions are not there.",
                where=str(sessions),
                remedy="Paths are relative to the experiment file.",
            )
        load = load.model_copy(update={"sessions": sessions})
    return experiment.model_copy(update={"cells": cells, "load": load})


def _refusal(cause: ValidationError, source: str) -> ReplayError:
    first = cause.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        unknown = str(first["loc"][-1])
        known = _keys_beside(first["loc"])
        near = difflib.get_close_matches(unknown, known, n=1, cutoff=0.0)[0]
        return ReplayError(
            f"the key {unknown!r} is unknown.",
            where=f"{source}: {key}",
            remedy=f"Did you mean {near!r}? Known keys: {', '.join(known)}.",
        )
    message = first["msg"].removeprefix("Value error, ")
    return ReplayError(
        f"{message[0].lower()}{message[1:]}.",
        where=f"{source}: {key}" if key else source,
        remedy="See docs/replay.md, Experiments.",
    )


def _keys_beside(place: tuple[int | str, ...]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {"load": Load, "cells": CellSpec}
    section = sections.get(str(place[0])) if len(place) > 1 else None
    return list((section or Experiment).model_fields)
