"""Memory does not grow with the number of requests."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from pathlib import Path

from aiohttp import web

from pdcache.replay import ChatTokenizer, Journal, ReplaySpec, Session, TurnDone, run_replay
from pdcache.replay.sessions import Turn
from pdcache.replay.spec import ReplayEvent

ANSWER = b"".join(
    b'data: {"output_ids": [%d], "meta_info": {"completion_tokens": %d}}\n\n' % (i, i)
    for i in range(1, 25)
)


async def generate(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=ANSWER + b"data: [DONE]\n\n", content_type="text/event-stream")


async def health(request: web.Request) -> web.Response:
    return web.Response()


def held_after(requests: int, tokenizer: ChatTokenizer, folder: Path) -> list[int]:
    """Bytes that are held when a tenth, and when all of the requests are done."""
    # All ask the same, so that the pages that the ceiling knows stay the same too.
    sessions = [Session(f"s{i}", (Turn("The same question.", 24),)) for i in range(requests)]
    spec = ReplaySpec(sessions, tokenizer, page_size=8, mode="full_offload", concurrency=8)
    held: list[int] = []
    done = 0

    def measure(event: ReplayEvent) -> None:
        nonlocal done
        done += isinstance(event, TurnDone)
        if done in (requests // 10, requests) and isinstance(event, TurnDone):
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])

    async def go() -> None:
        app = web.Application()
        app.router.add_post("/generate", generate)
        app.router.add_get("/health", health)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        with Journal(folder, {}) as journal:
            summary = await run_replay(spec, url, journal, on_event=measure)
        assert summary.completed == requests
        await runner.cleanup()

    tracemalloc.start()
    try:
        asyncio.run(go())
    finally:
        tracemalloc.stop()
    return held


def test_memory_is_flat_over_many_requests(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    early, late = held_after(2000, tokenizer, tmp_path)
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    # A record alone is 600 bytes on disk and several times that in memory.
    assert written > 1000 * 1000
    assert late - early < 100_000, f"{late - early} bytes more after 1,800 further requests"
