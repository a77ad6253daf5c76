"""Two plans of one moment on one machine do not choose the same ports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pdcache.cluster import port_book
from pdcache.cluster.port_book import PortBook

# Another `up`: it takes a port, says so, and lives until its input ends.
OTHER = """
import sys
from pathlib import Path
from pdcache.cluster.port_book import PortBook
book = PortBook(Path(sys.argv[1]))
with book.planning():
    book.take([int(sys.argv[2])])
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_book, "port_is_free", lambda port: True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ports.json"


def free(path: Path, port: int) -> bool:
    book = PortBook(path)
    try:
        with book.planning():
            return book.free(port)
    finally:
        book.close()


def test_what_another_process_has_planned_is_not_free_until_it_ends(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(path), "21000"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "taken\n"
        assert not free(path, 21000)
        assert free(path, 21001)
        other.kill()
    assert free(path, 21000)


def test_ones_own_ports_are_free_to_oneself_and_gone_when_closed(path: Path) -> None:
    book = PortBook(path)
    with book.planning():
        book.take([21000])
    assert "21000" in path.read_text()
    assert free(path, 21000)
    book.close()
    assert not path.exists()


def test_a_port_that_somebody_listens_on_is_not_free(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_book, "port_is_free", lambda port: port != 21000)
    assert not free(path, 21000)
    assert free(path, 21001)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"1": {}}', '{"x": {"began": 1, "ports": []}}'])
def test_a_book_that_was_cut_off_is_begun_anew(path: Path, text: str) -> None:
    path.write_text(text)
    assert free(path, 21000)


def test_a_plan_that_failed_takes_nothing(path: Path) -> None:
    book = PortBook(path)
    with pytest.raises(RuntimeError), book.planning():
        book.take([21000])
        raise RuntimeError
    assert free(path, 21000)
