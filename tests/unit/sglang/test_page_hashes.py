"""Page hashes and object keys: the names under which a page lies in L3."""

from __future__ import annotations

import hashlib
import struct

import pytest

from pdcache.plan import KvFormat
from pdcache.sglang.page_keys import object_keys, page_hashes

FIRST = "cf97adeedb59e05bfd73a2b4c2a8885708c4f4f70c84c64b27120e72ab733b72"
SECOND = "4ebfa8a1f3c341517621838c6e1b9aa350307e3f00b3cbd1a07ef740f54396d6"


def test_the_reference_vectors() -> None:
    assert page_hashes([1, 2, 3, 4, 5, 6, 7, 8], 4) == [FIRST, SECOND]


def test_a_page_hash_is_sha256_over_the_page_before_and_little_endian_tokens() -> None:
    words = b"".join(token.to_bytes(4, "little") for token in (5, 6, 7, 8))
    assert hashlib.sha256(bytes.fromhex(FIRST) + words).hexdigest() == SECOND


def test_a_part_of_a_page_has_no_hash() -> None:
    assert page_hashes([1, 2, 3, 4, 5, 6, 7], 4) == [FIRST]
    assert page_hashes([1, 2, 3], 4) == []
    assert page_hashes([], 4) == []


def test_a_page_depends_on_every_page_before_it() -> None:
    changed = page_hashes([9, 2, 3, 4, 5, 6, 7, 8], 4)
    assert FIRST not in changed
    assert SECOND not in changed


def test_every_namespace_has_hashes_of_its_own() -> None:
    namespaces: list[dict[str, str | None]] = [
        {}, {"extra_key": ""}, {"cache_salt": ""}, {"extra_key": "", "cache_salt": ""},
        {"extra_key": "ab"}, {"cache_salt": "ab"}, {"extra_key": "a", "cache_salt": "b"},
    ]  # fmt: skip
    seen = {page_hashes([1, 2, 3, 4], 4, **namespace)[0] for namespace in namespaces}
    assert len(seen) == len(namespaces)


def test_a_namespace_stands_in_the_place_of_the_page_before_the_first() -> None:
    """An absent part is one zero byte; a present one its length and its UTF-8 bytes."""
    salt = "\u00e9"
    seed = hashlib.sha256(
        b"sglang-cache-namespace-v1" + b"\x00" + b"\x01" + (2).to_bytes(8, "little") + b"\xc3\xa9"
    ).digest()
    page = hashlib.sha256(seed + (7).to_bytes(4, "little")).hexdigest()
    assert page_hashes([7], 1, cache_salt=salt) == [page]


@pytest.mark.parametrize("token", [-1, 2**32])
def test_a_token_that_is_no_u32_is_refused(token: int) -> None:
    with pytest.raises(struct.error):
        page_hashes([token], 1)


def test_object_keys_stand_around_the_hash() -> None:
    kv_format = KvFormat(
        page_size=4, dtype="float32", layout="page_first_direct", io_backend="direct", tp=1,
        served_name="m", namespace="kv1", key_prefix="kv1_m_", key_suffixes=("_0_k", "_0_v"),
    )  # fmt: skip
    assert object_keys(FIRST, kv_format) == [f"kv1_m_{FIRST}_0_k", f"kv1_m_{FIRST}_0_v"]
