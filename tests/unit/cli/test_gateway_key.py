"""The key of a gateway: made when there is none, and refused when it is no secret."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from golden.plans import shipped

from pdcache.cli.gateway_key import SHORTEST, gateway_key
from pdcache.errors import TopologyError

GOOD = "a-key-of-some-length"


def key(path: Path | str) -> str | None:
    return gateway_key(shipped("full_offload", f"gateway.key_file={path}"))


def refusal(path: Path) -> TopologyError:
    with pytest.raises(TopologyError) as caught:
        key(path)
    assert caught.value.where == "gateway.key_file"
    return caught.value


def written(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_a_topology_that_names_no_file_wants_no_key() -> None:
    assert gateway_key(shipped("full_offload")) is None


def test_a_missing_file_is_made_for_its_owner_alone_with_a_key_that_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "key"
    made = key(path)
    assert made is not None
    assert len(made) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key(path) == made == path.read_text().strip()
    assert key(tmp_path / "another") != made


def test_a_file_in_the_home_folder_may_be_written_with_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert key("~/key") == (tmp_path / "key").read_text().strip()


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_key_of_the_users_own_is_taken_without_its_line_end(tmp_path: Path, end: bytes) -> None:
    assert key(written(tmp_path / "key", GOOD.encode() + end)) == GOOD


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601, 0o610])
def test_a_file_that_others_can_use_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, mode: int
) -> None:
    path = written(tmp_path / "key", GOOD.encode(), mode)
    assert refusal(path).remedy == f"chmod 600 {path}"
    path.chmod(0o600)
    assert key(path) == GOOD


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n", b"x" * (SHORTEST - 1), b"two words of some length",
        b"two\nlines-of-some-length", b"a-key\twith-a-tab-in-it", b"a-key\x00with-a-nul-in-it",
        "schl\u00fcssel-mit-umlaut".encode(),
        b"a-key\x1bwith-an-escape",
    ],
)  # fmt: skip
def test_what_is_no_word_of_some_length_is_no_key(tmp_path: Path, data: bytes) -> None:
    error = refusal(written(tmp_path / "key", data))
    assert "holds no key" in error.message
    assert data.decode().strip() == "" or data.decode().strip() not in str(error)


@pytest.mark.parametrize("data", [b"\xff\xfe" * 20, bytes(range(256))])
def test_a_binary_file_is_no_key(tmp_path: Path, data: bytes) -> None:
    assert "cannot read" in refusal(written(tmp_path / "key", data)).message


def test_what_cannot_be_read_or_made_is_told_with_its_path(tmp_path: Path) -> None:
    written(tmp_path / "file", b"")
    for path in (tmp_path, tmp_path / "file" / "key"):
        assert str(path) in refusal(path).message


def test_a_refused_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "key", b"short", 0o644)
    refusal(path)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"short", 0o644)
