"""Our page hashes are SGLang's own, for random tokens, page sizes and namespaces.

One process of the CPU lane answers all examples; its first one may build a small C++ extension.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from pdcache.sglang.page_keys import page_hashes
from pdcache.sglang_cpu import pythonpath_folder, worker_environment

# A JSON line in, a JSON line out: [tokens, page size, extra_key, cache_salt] -> page hashes.
ANSWER = """
import json, sys
from sglang.srt.mem_cache.utils import get_hash_str, storage_namespace_seed

print("READY", flush=True)
for line in sys.stdin:
    tokens, page_size, extra_key, cache_salt = json.loads(line)
    whole = tokens[: len(tokens) // page_size * page_size]
    seed = storage_namespace_seed(extra_key, cache_salt)
    print(json.dumps(get_hash_str(whole, seed, page_size) if whole else []), flush=True)
"""

Hashes = Callable[[list[int], int, str | None, str | None], list[str]]
TEXT = some.none() | some.text(max_size=12)
TOKENS = some.lists(some.integers(0, 2**32 - 1), max_size=80)


@pytest.fixture(scope="module")
def sglang_hashes() -> Iterator[Hashes]:
    """SGLang's own function, in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", ANSWER],
        env=os.environ | worker_environment() | {"PYTHONPATH": str(pythonpath_folder())},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
    ) as process:  # fmt: skip
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        assert "READY\n" in iter(stdout.readline, "")

        def ask(
            tokens: list[int], page_size: int, extra_key: str | None, cache_salt: str | None
        ) -> list[str]:
            stdin.write(json.dumps([tokens, page_size, extra_key, cache_salt]) + "\n")
            stdin.flush()
            hashes: list[str] = json.loads(stdout.readline())
            return hashes

        yield ask
        stdin.close()


@settings(max_examples=200)
@given(tokens=TOKENS, page_size=some.integers(1, 17), extra_key=TEXT, cache_salt=TEXT)
def test_page_hashes_are_sglangs(
    sglang_hashes: Hashes,
    tokens: list[int],
    page_size: int,
    extra_key: str | None,
    cache_salt: str | None,
) -> None:
    ours = page_hashes(tokens, page_size, extra_key=extra_key, cache_salt=cache_salt)
    assert ours == sglang_hashes(tokens, page_size, extra_key, cache_salt)


def test_a_long_prompt_of_real_pages_has_sglangs_hashes(sglang_hashes: Hashes) -> None:
    tokens = [(7 * i) % 49_152 for i in range(64 * 40 + 5)]
    assert page_hashes(tokens, 64) == sglang_hashes(tokens, 64, None, None)
    assert len(page_hashes(tokens, 64)) == 40


def test_the_reference_vectors_are_sglangs(sglang_hashes: Hashes) -> None:
    assert sglang_hashes([1, 2, 3, 4, 5, 6, 7, 8], 4, None, None) == [
        "cf97adeedb59e05bfd73a2b4c2a8885708c4f4f70c84c64b27120e72ab733b72",
        "4ebfa8a1f3c341517621838c6e1b9aa350307e3f00b3cbd1a07ef740f54396d6",
    ]
