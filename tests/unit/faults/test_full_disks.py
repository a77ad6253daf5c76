"""A disk without room is told, wherever on it a folder will be."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from pdcache.faults import disk
from pdcache.faults.disk import LEAST_BYTES, full

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("left", "is_full"), [(LEAST_BYTES - 1, True), (LEAST_BYTES, False)])
def test_a_disk_is_full_when_too_little_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, left: int, is_full: bool
) -> None:
    asked = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(1 << 40, (1 << 40) - left, left)

    monkeypatch.setattr(disk.shutil, "disk_usage", usage)
    found = full(tmp_path / "not" / "there" / "yet")
    assert (found is not None) is is_full
    assert asked == [tmp_path]


def test_a_disk_that_does_not_tell_is_not_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(path: Path) -> Usage:
        raise PermissionError

    monkeypatch.setattr(shutil, "disk_usage", refuse)
    assert full(tmp_path) is None
