"""Hundreds of servers in one process: each answers what the controller asks, and does nothing.

    python scripts/bench/stub_workers.py ADDRESS:PORT...

Answers are made once: an SGLang worker without requests with a page of metrics of usual size, a
Mooncake master, a gateway. `/stats` tells how often each path was asked; `ready` is printed when
all listen.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import ClassVar

QUEUES = (
    "prefill_bootstrap_queue_reqs",
    "prefill_inflight_queue_reqs",
    "decode_prealloc_queue_reqs",
)
LOADS = {
    "loads": [
        {
            "dp_rank": 0, "timestamp": 1.0, "num_running_reqs": 0, "num_waiting_reqs": 0,
            "gen_throughput": 0.0, "disaggregation": dict.fromkeys(QUEUES, 0),
            "queues": {"waiting": 0, "grammar": 0, "retracted": 0},
        }
    ]
}  # fmt: skip
LABELS = (
    '{engine_type="unified",model_name="Qwen/Qwen3-8B",moe_ep_rank="0",pp_rank="0",tp_rank="0"}'
)
SERIES = [f"sglang:some_metric_{i}_total" for i in range(600)]
COUNTERS = ["sglang:hicache_backup_tokens_total", "sglang:backuped_tokens_total"]
METRICS = "".join(f"# TYPE {name} counter\n{name}{LABELS} 128.0\n" for name in SERIES + COUNTERS)
MASTER = "# TYPE master_key_count gauge\nmaster_key_count 1000\n"


class Stub(asyncio.Protocol):
    """One connection, kept open from request to request; requests have no body."""

    asked: ClassVar[Counter[str]] = Counter()
    pages: ClassVar[dict[str, bytes]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to answer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._rest = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        *requests, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for request in requests:
            path = request.split(b" ", 2)[1].decode().partition("?")[0]
            Stub.asked[path] += 1
            page = Stub.pages.get(path)
            self._transport.write(page or answer(json.dumps(Stub.asked)))


def answer(text: str) -> bytes:
    """A whole response."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {len(text)}\r\n\r\n"
    return (head + text).encode()


async def serve(addresses: list[str]) -> None:
    """Listen on every address for ever."""
    loop = asyncio.get_running_loop()
    for address in addresses:
        host, _, port = address.rpartition(":")
        await loop.create_server(Stub, host, int(port))
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    Stub.pages = {
        "/v1/loads": answer(json.dumps(LOADS)),
        "/metrics": answer(METRICS + MASTER),
        "/health": answer('{"service_ready": true}'),
        "/liveness": answer("ok"),
    }
    asyncio.run(serve(sys.argv[1:]))
