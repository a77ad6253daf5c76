"""The lane's C functions are compiled once, and what hinders that is said."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pdcache.sglang_cpu import native


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PDCACHE_CACHE", str(tmp_path))
    return tmp_path


def test_it_is_compiled_once_whoever_asks_first(own_cache, monkeypatch):
    compiled, compile_into = [], native._compile
    monkeypatch.setattr(
        native, "_compile", lambda into: (compiled.append(into), compile_into(into))
    )
    with ThreadPoolExecutor() as pool:
        paths = set(pool.map(lambda _: native._compiled(), range(3)))
    assert len(compiled) == 1
    assert [*own_cache.iterdir()] == [*paths]
    monkeypatch.setattr(native, "COMPILER", "no-such-compiler")
    assert {native._compiled()} == paths


def test_a_damaged_library_is_made_anew():
    path = native._compiled()
    whole = path.read_bytes()
    path.unlink()  # One that is loaded must not change under its process.
    path.write_bytes(whole[:100])
    library = native.kernels.__wrapped__()
    assert path.read_bytes() == whole
    assert library.linear


def test_a_missing_compiler_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(native, "COMPILER", "no-such-compiler")
    with pytest.raises(RuntimeError, match="no-such-compiler is missing; apt-get install gcc"):
        native._compiled()


def test_what_the_compiler_says_is_passed_on(own_cache, monkeypatch):
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-no-such-flag"))
    with pytest.raises(RuntimeError, match="no-such-flag"):
        native._compiled()
    assert not [*own_cache.iterdir()]
