from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from pdcache.experiments import pdcache_command


def test_a_command_leaves_its_exit_code_and_its_words(tmp_path: Path) -> None:
    assert pdcache_command(["--version"], tmp_path / "log", 60) == 0
    assert (tmp_path / "log").read_text().startswith("pdcache ")
    assert pdcache_command(["nonsense"], tmp_path / "log", 60) == 2


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    assert pdcache_command(["--version"], tmp_path / "log", 0.01) == 124


def test_ctrl_c_ends_the_command_before_it_goes_on(tmp_path: Path) -> None:
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        pdcache_command(["--help"], tmp_path / "log", 60)
    timer.join()
