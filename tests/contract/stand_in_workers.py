"""Two HTTP servers that smg takes for SGLang workers; they record what reaches them."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Any

from aiohttp import web

NAME = "stand-in"


class StandInWorkers:
    """A prefill and a decode for a with block.

    Attributes:
        seen: body and headers of every request for a generation.
        seconds: how long a generation takes.
    """

    def __init__(self, ports: tuple[int, int]) -> None:
        self.ports = ports
        self.seen: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.seconds = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> StandInWorkers:
        self._thread.start()
        self._runners = [self._call(self._serve(port)) for port in self.ports]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for runner in self._runners:
            self._call(runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _serve(self, port: int) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/health", lambda request: _answer({}))
        app.router.add_get("/v1/models", lambda request: _answer(
            {"object": "list", "data": [{"id": NAME, "object": "model", "owned_by": "sglang"}]}
        ))  # fmt: skip
        app.router.add_get("/server_info", lambda request: _answer({"served_model_name": NAME}))
        app.router.add_post("/generate", self._generate)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner

    async def _generate(self, request: web.Request) -> web.Response:
        self.seen.append((await request.json(), dict(request.headers)))
        await asyncio.sleep(self.seconds)
        return web.json_response({"text": "a", "output_ids": [1], "meta_info": {"id": "a"}})


async def _answer(data: dict[str, Any]) -> web.Response:
    return web.json_response(data)
