"""One generation through SGLang's ``/generate``: over a gateway, or on a chosen pair of workers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from pdcache.errors import ClusterError
from pdcache.plan.process import Process


@dataclass(frozen=True)
class Generation:
    """An answer with the tokens that came from each tier.

    Attributes:
        output_ids: the tokens of the answer.
        prompt_tokens: length of the prompt.
        device, host, storage: prompt tokens served from L1, L2, L3 of the prefill worker.
        top2_gaps: per output token the logprob gap of the two best tokens, when asked for.
    """

    output_ids: tuple[int, ...]
    prompt_tokens: int
    device: int
    host: int
    storage: int
    top2_gaps: tuple[float, ...] = ()

    @property
    def cached(self) -> int:
        """Cached prompt tokens of all tiers."""
        return self.device + self.host + self.storage


@dataclass(frozen=True)
class Pair:
    """A prefill and a decode worker that serve one request together."""

    prefill: Process
    decode: Process


def request_body(
    input_ids: Sequence[int],
    max_new_tokens: int,
    *,
    cache_salt: str | None = None,
    logprobs: bool = False,
) -> dict[str, Any]:
    """Greedy generation of exactly ``max_new_tokens`` tokens."""
    body: dict[str, Any] = {
        "input_ids": list(input_ids),
        "sampling_params": {
            "temperature": 0, "max_new_tokens": max_new_tokens, "ignore_eos": True,
        },
    }  # fmt: skip
    if cache_salt is not None:
        body["cache_salt"] = cache_salt
    if logprobs:
        body |= {"return_logprob": True, "top_logprobs_num": 2}
    return body


async def through_gateway(
    client: httpx.AsyncClient, endpoint: str, model: str, body: dict[str, Any]
) -> Generation:
    """Send to the gateway, as a user does; smg 1.13 wants the model's name in every body.

    Raises:
        ClusterError: no answer, or an HTTP error.
    """
    return _parse(
        await _post(client, f"{endpoint}/generate", body | {"model": model}, "gateway"), "gateway"
    )


async def on_pair(client: httpx.AsyncClient, pair: Pair, body: dict[str, Any]) -> Generation:
    """Send to one prefill and one decode at once, past the gateway.

    Both halves get the same bootstrap room (sglang 0.5.23: any number below 2**63, used once).

    Raises:
        ClusterError: either half failed; it names the worker.
    """
    bootstrap = {
        "bootstrap_host": urlsplit(pair.prefill.url or "").hostname,
        "bootstrap_port": pair.prefill.ports["bootstrap"],
        "bootstrap_room": secrets.randbelow(2**62),
    }
    halves = [
        _post(client, f"{worker.url}/generate", body | bootstrap, worker.name)
        for worker in (pair.prefill, pair.decode)
    ]
    tasks = [asyncio.ensure_future(half) for half in halves]
    try:
        _, answer = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return _parse(answer, pair.decode.name)


async def _post(
    client: httpx.AsyncClient, url: str, body: dict[str, Any], worker: str
) -> dict[str, Any]:
    try:
        response = await client.post(url, json=body)
    except httpx.TimeoutException:
        raise ClusterError("did not answer in time.", where=worker) from None
    except httpx.HTTPError as error:
        raise ClusterError(f"{type(error).__name__}: {error}.", where=worker) from None
    if response.status_code != 200:
        raise ClusterError(
            f"answered HTTP {response.status_code}: {response.text[:300]}", where=worker
        )
    data: dict[str, Any] = response.json()
    return data


def _parse(data: dict[str, Any], worker: str) -> Generation:
    meta = data.get("meta_info") or {}
    if "output_ids" not in data:
        raise ClusterError(f"answered without output_ids: {str(data)[:300]}", where=worker)
    details = meta.get("cached_tokens_details") or {}
    known = {tier: int(details.get(tier) or 0) for tier in ("device", "host", "storage")}
    gaps = []
    for top in meta.get("output_top_logprobs") or []:
        if top and len(top) > 1:
            gaps.append(float(top[0][0]) - float(top[1][0]))
    return Generation(
        output_ids=tuple(data["output_ids"]),
        prompt_tokens=int(meta.get("prompt_tokens", 0)),
        top2_gaps=tuple(gaps),
        **known,
    )
