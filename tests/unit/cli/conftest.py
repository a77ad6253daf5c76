"""Run the command line in this process, with a home of its own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from command_outcome import Outcome, Pdcache

from pdcache.cli.main import main

SMALL = """
name: small
mode: full_offload
device: cpu
model: {path: tiny-random}
memory: {host_gb: 16}
store: {segment_gb: 1}
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty pdcache home, and no Ray cluster."""
    folder = tmp_path / "home"
    monkeypatch.setenv("PDCACHE_HOME", str(folder))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return folder


@pytest.fixture
def pdcache(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Pdcache:
    """The command; no traceback may reach its user, whatever happens."""

    def run(*words: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["pdcache", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        out, err = (re.sub(r"\x1b\[[0-9;]*m", "", text) for text in shown)
        assert "Traceback" not in out + err
        return Outcome(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A sound topology file."""
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    return file
