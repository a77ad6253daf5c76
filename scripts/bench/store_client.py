"""One client of a store: SGLang's host pool and backend, and what is measured with them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil
import torch
from sglang.srt.mem_cache.hicache_storage import STORAGE_BATCH_SIZE, HiCacheStorageConfig
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.storage.mooncake_store.mooncake_store import MooncakeStore
from store_stack import Stack, Way

from pdcache.store.mooncake_commands import CLIENT_ENV

PR_SET_PDEATHSIG = 1
SMALL_BYTES = 64


@dataclass(frozen=True)
class Shape:
    """What a model keeps of a token."""

    name: str
    layers: int
    heads: int
    dim: int
    dtype: torch.dtype

    @property
    def token_bytes(self) -> int:
        """K and V of one token in all layers."""
        return 2 * self.layers * self.heads * self.dim * int(self.dtype.itemsize)


@dataclass(frozen=True)
class Case:
    """One thing to measure: a way to the store, pages, and how many SGLang gives it at once."""

    way: Way
    shape: Shape
    page_size: int = 64
    layout: str = "page_first_direct"
    batch: int = STORAGE_BATCH_SIZE


def serve(case: Case, stack: Stack, pages: int, pipe: Connection) -> None:
    """Body of a forked process: one round for each word on `pipe`, until it is closed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.update({**CLIENT_ENV, **case.way.env})
    client = Client(case, stack, pages)
    pipe.send("ready")
    while (word := pipe.recv()) is not None:
        pipe.send(client.measure(word))
    # Mooncake's destructors wait for threads that nobody needs any more.
    os._exit(0)


class Client:
    """A worker's side of L3: the first half of its host pool is written, the second is read."""

    def __init__(self, case: Case, stack: Stack, pages: int) -> None:
        shape, page = case.shape, case.page_size
        device = MHATokenToKVPool(
            size=page, page_size=page, dtype=shape.dtype, head_num=shape.heads,
            head_dim=shape.dim, layer_num=shape.layers, device="cpu", enable_memory_saver=False,
        )  # fmt: skip
        self.pool = MHATokenToKVPoolHost(
            device.get_device_pool_infos()[0].buffer_info,
            host_to_device_ratio=2.0 * pages, host_size=0, page_size=page, layout=case.layout,
            allocator_type="mooncake", device_capacity_tokens=page,
            start_layer=0, end_layer=shape.layers - 1,
        )  # fmt: skip
        if case.way.segment == "shared_memory":
            # SGLang 0.5.23 registers K and V apart, which Mooncake 0.3.13 refuses for memory that
            # a holder maps: it takes an allocation as a whole.
            self.pool.get_hybrid_pool_buffer = lambda: [self.pool.kv_buffer]
        self.backend = MooncakeStore(
            HiCacheStorageConfig(
                tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1,
                is_mla_model=False, enable_storage_metrics=False,
                is_page_first_layout=case.layout == "page_first", model_name="model",
                extra_config=stack.options,
            ),
            self.pool,
        )  # fmt: skip
        self.backend.register_mem_pool_host(self.pool)
        self.case, self.pages, self.rounds = case, pages, 0
        self.source = torch.arange(pages * page)
        self.target = self.source + pages * page
        self.holder = None if stack.holder_pid is None else psutil.Process(stack.holder_pid)
        self.pool.kv_buffer.view(torch.uint8).copy_(
            torch.randint(0, 255, self.pool.kv_buffer.view(torch.uint8).shape, dtype=torch.uint8)
        )

    def measure(self, order: str) -> dict[str, float]:
        """Seconds of each step with fresh keys; `order` says whose turn is first.

        Raises:
            AssertionError: something was not stored, or came back different.
        """
        self.rounds += 1
        took: dict[str, float] = {}
        steps = [self._sglang, self._raw, self._floor]
        for step in steps if order == "forth" else reversed(steps):
            step(took)
        self.backend.store.remove_all(True)
        return took

    def _sglang(self, took: dict[str, float]) -> None:
        """As SGLang's cache controller writes and reads: batch after batch."""
        keys, page, store = self._keys("sglang"), self.case.page_size, self.backend
        batches = [
            (keys[first : first + self.case.batch],
             slice(first * page, (first + self.case.batch) * page))
            for first in range(0, self.pages, self.case.batch)
        ]  # fmt: skip
        self._clear()
        before = self._holder_cpu_s(), time.process_time()
        stored = timed(took, "sglang_write", lambda: [
            done for names, own in batches for done in store.batch_set_v1(names, self.source[own])
        ])  # fmt: skip
        found = timed(took, "sglang_query", lambda: sum(
            store.batch_exists(names) for names, _ in batches
        ))  # fmt: skip
        read = timed(took, "sglang_read", lambda: [
            done for names, own in batches for done in store.batch_get_v1(names, self.target[own])
        ])  # fmt: skip
        took["holder_cpu"] = self._holder_cpu_s() - before[0]
        took["client_cpu"] = time.process_time() - before[1]
        assert all(stored) and all(read) and found == self.pages
        assert self._equal(), "what came back differs from what was written"

    def _raw(self, took: dict[str, float]) -> None:
        """The same objects without SGLang, in one call, and what it does beside moving bytes."""
        store, own = self.backend.store, self.backend
        names = self._keys("raw")
        keys, source, sizes = timed(
            took, "lists", lambda: own._batch_preprocess(own._tag_keys(names), self.source)
        )
        _, target, _ = own._batch_preprocess(names, self.target)
        self._clear()
        timed(took, "existence", lambda: store.batch_is_exist(keys))
        put = timed(took, "raw_write", lambda: store.batch_put_from(keys, source, sizes))
        got = timed(took, "raw_read", lambda: store.batch_get_into(keys, target, sizes))
        assert not any(put) and got == sizes and self._equal()
        small = [f"{key}_small" for key in keys]
        length = [SMALL_BYTES] * len(keys)
        put = timed(took, "small_write", lambda: store.batch_put_from(small, source, length))
        got = timed(took, "small_read", lambda: store.batch_get_into(small, target, length))
        assert not any(put) and got == length

    def _floor(self, took: dict[str, float]) -> None:
        """The same bytes by memcpy, and through one TCP connection on loopback."""
        self._clear()
        timed(took, "memcpy", lambda: self._halves()[1].copy_(self._halves()[0]))
        assert self._equal()
        self._clear()
        _, source, sizes = self.backend._batch_preprocess(self._keys(""), self.source)
        _, target, _ = self.backend._batch_preprocess(self._keys(""), self.target)
        timed(took, "socket", lambda: through_a_socket(source, target, sizes))
        assert self._equal()

    def _keys(self, part: str) -> list[str]:
        """Page hashes as SGLang's, new ones each round."""
        return [
            hashlib.sha256(f"{part} {self.rounds} {number}".encode()).hexdigest()
            for number in range(self.pages)
        ]

    def _halves(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What is written and what is read into, K and V."""
        whole: Any = self.pool.kv_buffer
        length = self.pages * (self.case.page_size if self.case.layout == "page_first" else 1)
        return whole[:, :length], whole[:, length : 2 * length]

    def _clear(self) -> None:
        self._halves()[1].zero_()

    def _equal(self) -> bool:
        source, target = self._halves()
        return bool(torch.equal(source.view(torch.uint8), target.view(torch.uint8)))

    def _holder_cpu_s(self) -> float:
        return 0.0 if self.holder is None else sum(self.holder.cpu_times()[:2])


def timed(took: dict[str, float], name: str, step: Callable[[], Any]) -> Any:
    """What `step` gives; its seconds go into `took`."""
    begin = time.perf_counter()
    result = step()
    took[name] = time.perf_counter() - begin
    return result


def through_a_socket(source: list[int], target: list[int], sizes: list[int]) -> None:
    """Send objects to a thread that puts them where they belong."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        receiver = threading.Thread(target=_receive, args=(server, target, sizes))
        receiver.start()
        with socket.create_connection(server.getsockname()) as connection:
            for address, size in zip(source, sizes, strict=True):
                connection.sendall(_memory(address, size))
            receiver.join()


def _receive(server: socket.socket, target: list[int], sizes: list[int]) -> None:
    with server.accept()[0] as connection:
        for address, size in zip(target, sizes, strict=True):
            connection.recv_into(_memory(address, size), size, socket.MSG_WAITALL)


def _memory(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_byte * size).from_address(address)).cast("B")
