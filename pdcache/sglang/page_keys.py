"""Page hashes: the body of every L3 key.

Rule (sglang 0.5.23 ``mem_cache/cpp_utils/hash_binding.cpp:62-81``): SHA-256 over the digest of the
page before and the page's tokens as little-endian u32; a namespace (``mem_cache/utils.py:125``)
takes the place of the digest before the first page.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from pdcache.plan.process import KvFormat


def page_hashes(
    tokens: Sequence[int],
    page_size: int,
    *,
    extra_key: str | None = None,
    cache_salt: str | None = None,
) -> list[str]:
    """Hex digests of all whole pages of ``tokens``, first page first."""
    prior = _namespace_seed(extra_key, cache_salt)
    hashes = []
    for start in range(0, len(tokens) // page_size * page_size, page_size):
        page = struct.pack(f"<{page_size}I", *tokens[start : start + page_size])
        prior = hashlib.sha256(prior + page).digest()
        hashes.append(prior.hex())
    return hashes


def object_keys(page_hash: str, kv_format: KvFormat) -> list[str]:
    """Mooncake object keys that hold one page."""
    return [f"{kv_format.key_prefix}{page_hash}{suffix}" for suffix in kv_format.key_suffixes]


def _namespace_seed(extra_key: str | None, cache_salt: str | None) -> bytes:
    if extra_key is None and cache_salt is None:
        return b""
    digest = hashlib.sha256(b"sglang-cache-namespace-v1")
    for part in (extra_key, cache_salt):
        if part is None:
            digest.update(b"\x00")
        else:
            encoded = part.encode()
            digest.update(b"\x01" + len(encoded).to_bytes(8, "little") + encoded)
    return digest.digest()
