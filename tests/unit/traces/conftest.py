"""Trace files of a few lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trace_lines import Written


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes lines, objects as JSON, and returns the file."""

    def write(*lines: object, name: str = "trace.jsonl") -> Path:
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("".join(f"{text}\n" for text in texts))
        return path

    return write
