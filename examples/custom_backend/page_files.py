"""Two storage backends for SGLang's HiCache that keep one file a page in a shared folder.

`PageFiles` has the generic interface: SGLang copies a page to and from a flat tensor.
`PageFilesInPlace` has interface_v1: it reads and writes SGLang's L2 where it lies.

Options (``store.extra`` in the topology, and what pdcache adds):
    folder: shared by all workers.
    namespace: from pdcache; stands for everything that shapes a page's bytes and is not in
        SGLang's key: weights, dtype, layout, page size.

SGLang calls a backend from three threads at once: one asks, one reads, one writes.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage, HiCacheStorageConfig


class PageFiles(HiCacheStorage):
    """One file a page; safe for many threads, processes and, on a shared mount, nodes."""

    def __init__(self, config: HiCacheStorageConfig, kwargs: dict[str, Any]) -> None:
        options = config.extra_config or {}
        self._folder = Path(options["folder"]) / options["namespace"]
        self._folder.mkdir(parents=True, exist_ok=True)
        # Under MLA all ranks hold the same page and share its file; otherwise each has its heads.
        parts = [] if config.is_mla_model else [f"tp{config.tp_rank}of{config.tp_size}"]
        if config.pp_size > 1:
            parts.append(f"pp{config.pp_rank}of{config.pp_size}")
        if config.attn_cp_size > 1:
            parts.append(f"cp{config.attn_cp_rank}of{config.attn_cp_size}")
        self._ending = "".join(f".{part}" for part in parts) + ".kv"

    def exists(self, key: str) -> bool:
        """Whether a page is stored."""
        return self._path(key).exists()

    def batch_exists(self, keys: list[str], extra_info: Any = None) -> int:
        """How many of the first keys are stored without a gap."""
        for count, key in enumerate(keys):
            if not self.exists(key):
                return count
        return len(keys)

    def set(self, key: str, value: Any = None, *unused: Any, **more: Any) -> bool:
        """Store one page; a page that is there already is left as it is."""
        return self._write(key, [_bytes_of(value.contiguous())])

    def batch_set(self, keys: list[str], values: Any = None, *unused: Any, **more: Any) -> bool:
        """Store pages; False when one could not be stored."""
        return all(self.set(key, value) for key, value in zip(keys, values, strict=True))

    def get(
        self, key: str, target_location: Any = None, *unused: Any, **more: Any
    ) -> torch.Tensor | None:
        """Read a page into a tensor; None when it is not there."""
        return target_location if self._read(key, [_bytes_of(target_location)]) else None

    def batch_get(
        self, keys: list[str], target_locations: Any = None, *unused: Any, **more: Any
    ) -> list[torch.Tensor | None]:
        """Read pages into tensors."""
        targets = zip(keys, target_locations, strict=True)
        return [self.get(key, target) for key, target in targets]

    def clear(self) -> None:
        """Forget the pages of this namespace."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / (key + self._ending)

    def _write(self, key: str, parts: Sequence[memoryview]) -> bool:
        path = self._path(key)
        if path.exists():  # a key names its content
            return True
        temporary = path.with_name(f".{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(exist_ok=True)
            with open(temporary, "wb", buffering=0) as file:
                if any(file.write(part) != len(part) for part in parts):
                    return False
            temporary.replace(path)  # readers see whole pages only
        except OSError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _read(self, key: str, parts: Sequence[memoryview]) -> bool:
        try:
            with open(self._path(key), "rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != sum(map(len, parts)):
                    return False  # another page size or dtype
                return all(file.readinto(part) == len(part) for part in parts)
        except OSError:
            return False


class PageFilesInPlace(PageFiles):
    """The same files without SGLang's two copies a page."""

    def batch_set_v1(
        self, keys: list[str], host_indices: torch.Tensor, extra_info: Any = None
    ) -> list[bool]:
        """Store pages of L2; which of them could be stored."""
        return [self._write(key, parts) for key, parts in self._pages(keys, host_indices)]

    def batch_get_v1(
        self, keys: list[str], host_indices: torch.Tensor, extra_info: Any = None
    ) -> list[bool]:
        """Read pages into L2; which of them were there."""
        return [self._read(key, parts) for key, parts in self._pages(keys, host_indices)]

    def _pages(
        self, keys: list[str], host_indices: torch.Tensor
    ) -> Iterator[tuple[str, list[memoryview]]]:
        """Each key with the pieces of L2 that hold its page, in the order of the file."""
        addresses, sizes = self.mem_pool_host.get_page_buffer_meta(host_indices)
        pieces = [_memory(address, size) for address, size in zip(addresses, sizes, strict=True)]
        each = len(pieces) // len(keys)
        for i, key in enumerate(keys):
            yield key, pieces[i * each : (i + 1) * each]


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.view(torch.uint8).numpy()).cast("B")


def _memory(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")
