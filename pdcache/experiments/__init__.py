"""Experiments: several topologies under one load, in turns, with one comparison at the end.

experiment = load_experiment("examples/multi_turn/experiment.yaml")
result = run_experiment(experiment, "out/modes")
"""

from __future__ import annotations

from pdcache.experiments.cells import Cell, Group, cells, groups, schedule
from pdcache.experiments.commands import Command, pdcache_command
from pdcache.experiments.run import Outcome, run_experiment
from pdcache.experiments.spec import Experiment, load_experiment

__all__ = [
    "Cell",
    "Command",
    "Experiment",
    "Group",
    "Outcome",
    "cells",
    "groups",
    "load_experiment",
    "pdcache_command",
    "run_experiment",
    "schedule",
]
