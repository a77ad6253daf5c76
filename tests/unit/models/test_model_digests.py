"""Digests tell models apart, and are the same for the same content."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pdcache.errors import ModelError
from pdcache.models import resolve_model, tokenizer_digest, weights_digest


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of tiny-random outside the cache, so that it is judged by its files."""
    monkeypatch.setenv("PDCACHE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return Path(shutil.copytree(resolve_model("tiny-random"), tmp_path / "model"))


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_copy_elsewhere_has_the_same_digests(model: Path, tmp_path: Path) -> None:
    copy = str(shutil.copytree(model, tmp_path / "elsewhere"))
    assert weights_digest(copy) == weights_digest(str(model))
    assert tokenizer_digest(copy) == tokenizer_digest(str(model))


@pytest.mark.parametrize("position", [100, 5000, -1])
def test_a_change_in_header_start_or_end_of_the_weights_shows(model: Path, position: int) -> None:
    before = weights_digest(str(model))
    flip(model / "model.safetensors", position)
    assert weights_digest(str(model)) != before


def test_longer_weights_show(model: Path) -> None:
    before = weights_digest(str(model))
    content = (model / "model.safetensors").read_bytes()
    middle = len(content) // 2
    (model / "model.safetensors").write_bytes(content[:middle] + b"0000" + content[middle:])
    assert weights_digest(str(model)) != before


def test_a_changed_configuration_is_another_model(model: Path) -> None:
    before = weights_digest(str(model)), tokenizer_digest(str(model))
    config = model / "config.json"
    config.write_text(config.read_text().replace("10000.0", "20000.0"))
    assert weights_digest(str(model)) != before[0]
    assert tokenizer_digest(str(model)) == before[1]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_changed_tokenizer_shows_in_its_digest_only(model: Path, name: str) -> None:
    before = weights_digest(str(model)), tokenizer_digest(str(model))
    flip(model / name, 50)
    assert weights_digest(str(model)) == before[0]
    assert tokenizer_digest(str(model)) != before[1]


def test_an_added_chat_template_shows(model: Path) -> None:
    before = tokenizer_digest(str(model))
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert tokenizer_digest(str(model)) != before


def test_a_built_in_model_is_the_same_by_name_and_by_folder(model: Path) -> None:
    folder = resolve_model("tiny-random")
    assert weights_digest("tiny-random") == weights_digest(folder)
    assert tokenizer_digest("tiny-random") == tokenizer_digest(folder)


def test_built_in_models_are_told_apart_without_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDCACHE_CACHE", str(tmp_path / "cache"))
    names = ("tiny-random", "smollm2-135m")
    digests = {function(name) for name in names for function in (weights_digest, tokenizer_digest)}
    assert len(digests) == 4
    assert not (tmp_path / "cache").exists()


def test_weights_of_a_hub_model_that_is_not_here_are_an_error(model: Path) -> None:
    with pytest.raises(ModelError, match="not on this machine"):
        weights_digest("org/name")


@pytest.mark.parametrize(
    ("name", "said"),
    [("model.safetensors", "has no weights"), ("config.json", "No such file")],
)
def test_a_missing_file_is_an_error(model: Path, name: str, said: str) -> None:
    (model / name).unlink()
    with pytest.raises(ModelError, match=said):
        weights_digest(str(model))


def test_a_folder_without_tokenizer_is_an_error(model: Path) -> None:
    for path in model.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        tokenizer_digest(str(model))


def test_a_damaged_weights_header_still_has_a_digest(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\xff" * 20)
    assert len(weights_digest(str(model))) == 64
