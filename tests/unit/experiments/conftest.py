"""An experiment file with two topologies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Write an experiment of prefill_only against full_offload; keys can be changed."""

    def write(**changes: object) -> Path:
        for name in ("prefill_only", "full_offload"):
            (tmp_path / f"{name}.yaml").write_text(f"name: {name}\n")
        experiment = {
            "name": "modes",
            "load": {"generate": {"sessions": 2, "turns": 2}, "replay": {"concurrency": 2}},
            "repetitions": 2,
            "cells": [
                {"name": "prefill_only", "topology": "prefill_only.yaml"},
                {"name": "full_offload", "topology": "full_offload.yaml"},
            ],
            **changes,
        }
        path = tmp_path / "experiment.yaml"
        path.write_text(yaml.safe_dump(experiment, sort_keys=False))
        return path

    return write
