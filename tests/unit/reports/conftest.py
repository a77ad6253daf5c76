"""Made run folders as fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_runs import make_run


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder of a given name; see `made_runs.Made` for what can be changed."""

    def make(name: str = "run", **changes: object) -> Path:
        return make_run(tmp_path / name, **changes)

    return make
