"""A stub that speaks as much of SGLang's and Mooncake's HTTP as the proof uses.

Prefill workers keep pages in L1, all share an L3, and decode offloads in full_offload. Faults are
attributes that a test sets.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from pdcache.plan import Plan
from pdcache.sglang.page_keys import object_keys, page_hashes
from pdcache.topology import Role

Body = dict[str, Any]


class FakeCluster:
    """Handles every request to the workers, the gateway and the master of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.page = plan.formats["prefill"].page_size
        self.l1: dict[str, set[str]] = {p.name: set() for p in plan.role(Role.PREFILL)}
        self.l3: set[str] = set()
        # Faults.
        self.prefetch_threshold = 0
        self.prefill_writes = True
        self.decode_writes = plan.mode.value == "full_offload"
        self.salt_is_ignored = False
        self.spoil: Callable[[list[int]], list[int]] | None = None
        self.top2_gap = 1.0
        self.down: str | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        base = f"http://{request.url.host}:{request.url.port}"
        if base == self.down:
            return httpx.Response(500, text="out of order")
        if base in self.plan.store.urls:
            return self._keys(request.url.params["keys"].split(","))
        worker = next(process for process in self.plan.processes if process.url == base)
        if request.url.path == "/flush_cache":
            self.l1[worker.name].clear()
            return httpx.Response(200)
        body = json.loads(request.content)
        if worker.role is Role.PREFILL:
            return httpx.Response(200, json={"output_ids": [], "meta_info": {}})
        if worker.role is Role.GATEWAY:
            return self._generate(body, next(iter(self.l1)))
        return self._generate(body, self._prefill(body["bootstrap_port"]))

    def _prefill(self, bootstrap_port: int) -> str:
        prefills = self.plan.role(Role.PREFILL)
        return next(p.name for p in prefills if p.ports["bootstrap"] == bootstrap_port)

    def _keys(self, keys: list[str]) -> httpx.Response:
        known = {
            key for digest in self.l3 for key in object_keys(digest, self.plan.formats["prefill"])
        }
        return httpx.Response(200, json={"data": {key: {"ok": key in known} for key in keys}})

    def _generate(self, body: Body, prefill: str) -> httpx.Response:
        prompt = body["input_ids"]
        salt = None if self.salt_is_ignored else body.get("cache_salt")
        device, storage = self._match(prefill, page_hashes(prompt, self.page, cache_salt=salt),
                                      len(prompt))  # fmt: skip
        length = body["sampling_params"]["max_new_tokens"]
        answer = [(sum(prompt) + 7 * i) % 400 + 20 for i in range(length)]
        if self.spoil is not None and salt is None and device + storage:
            answer = self.spoil(answer)
        self._write(prefill, prompt, answer, salt)
        meta: Body = {
            "prompt_tokens": len(prompt),
            "cached_tokens_details": {"device": device, "host": 0, "storage": storage},
        }
        if body.get("return_logprob"):
            gap = [[[-0.1, 1, None], [-0.1 - self.top2_gap, 2, None]]]
            meta["output_top_logprobs"] = gap * length
        return httpx.Response(200, json={"output_ids": answer, "meta_info": meta})

    def _match(self, prefill: str, hashes: list[str], length: int) -> tuple[int, int]:
        """Tokens from L1, and beyond them from L3; the last token is always computed."""
        hashes = hashes[: (length - 1) // self.page]
        hot = next(
            (i for i, digest in enumerate(hashes) if digest not in self.l1[prefill]), len(hashes)
        )
        end = next((i for i in range(hot, len(hashes)) if hashes[i] not in self.l3), len(hashes))
        storage = (end - hot) * self.page
        return hot * self.page, storage if storage >= self.prefetch_threshold else 0

    def _write(self, prefill: str, prompt: list[int], answer: list[int], salt: str | None) -> None:
        pages = page_hashes(prompt, self.page, cache_salt=salt)
        self.l1[prefill] |= set(pages)
        if self.prefill_writes:
            self.l3 |= set(pages)
        if self.decode_writes:
            self.l3 |= set(page_hashes([*prompt, *answer[:-1]], self.page, cache_salt=salt))
