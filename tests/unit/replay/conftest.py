"""A stub that speaks SGLang's `/generate` over real sockets, and a small chat model folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from pdcache.replay import (
    ChatTokenizer,
    Journal,
    ReplayResult,
    ReplaySpec,
    ReplaySummary,
    read_run,
    run_replay,
)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>'"
    " + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% endif %}"
)


@dataclass
class Exchange:
    """One POST that the stub received, and the means to answer it."""

    headers: dict[str, str]
    body: dict[str, Any]
    writer: asyncio.StreamWriter

    async def head(self, status: int = 200, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} x", "transfer-encoding: chunked", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self._write(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def chunk(self, data: bytes) -> None:
        await self._write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def event(self, event: object) -> None:
        await self.chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    async def end(self, *, done: bool = True) -> None:
        if done:
            await self.chunk(b"data: [DONE]\n\n")
        await self._write(b"0\r\n\r\n")

    def cut(self) -> None:
        self.writer.transport.abort()

    async def _write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


@dataclass
class Replayed:
    """A replay as it ended, and as its folder tells it."""

    summary: ReplaySummary
    result: ReplayResult
    folder: Path


def environment(target: str, spec: ReplaySpec) -> dict[str, Any]:
    """The least that `environment.json` must say."""
    return {
        "schema": 1, "target": target, "mode": spec.mode, "page_size": spec.page_size,
        "spec": {"requests_planned": spec.planned}, "wall_s": None, "complete": False,
    }  # fmt: skip


async def into(folder: Path, spec: ReplaySpec, url: str, **options: Any) -> Replayed:
    """Replay into a folder."""
    with Journal(folder, environment(url, spec)) as journal:
        summary = await run_replay(spec, url, journal, **options)
    return Replayed(summary, read_run(folder), folder)


Script = Callable[[Exchange], Awaitable[None]]


@dataclass
class Stub:
    """A running stub: its `url` and what it `received`."""

    script: Script
    health: int = 200
    url: str = ""
    received: list[Exchange] = field(default_factory=list)
    server: asyncio.Server | None = None
    port: int = 0

    async def open(self, port: int = 0) -> None:
        """Listen, again at the same port after `close`."""
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", port)
        self.port = self.server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Refuse connections from here on; those that are open stay."""
        if self.server is not None:
            self.server.close()
            self.server = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            exchange = Exchange(headers, json.loads(body or b"{}"), writer)
            if request.startswith("GET"):
                known = "/health" in request and self.health
                await exchange.head(known or 404)
                await exchange.end(done=False)
            else:
                self.received.append(exchange)
                await self.script(exchange)
        writer.close()


async def answer(
    exchange: Exchange,
    ids: list[int],
    *,
    incremental: bool = False,
    counted: bool = True,
    cached: dict[str, int] | None = None,
) -> None:
    """A whole answer, one event a token, as SGLang streams it."""
    await exchange.head(content_type="text/event-stream")
    for end in range(1, len(ids) + 1):
        meta: dict[str, Any] = {
            "prompt_tokens": len(exchange.body["input_ids"]),
            "cached_tokens": sum((cached or {}).values()),
            "cached_tokens_details": cached,
            "finish_reason": {"type": "length"} if end == len(ids) else None,
        }
        if counted:
            meta["completion_tokens"] = end
        shown = ids[end - 1 : end] if incremental else ids[:end]
        await exchange.event({"text": "\u2028", "output_ids": shown, "meta_info": meta})
    await exchange.end()


def answer_ids(body: dict[str, Any]) -> list[int]:
    """The stub's greedy model: tokens that depend on the whole prompt."""
    seed = sum(body["input_ids"])
    return [(seed + 7 * i) % 200 + 20 for i in range(body["sampling_params"]["max_new_tokens"])]


@pytest.fixture(name="answer")
def _answer() -> Callable[..., Awaitable[None]]:
    return answer


@pytest.fixture(name="answer_ids")
def _answer_ids() -> Callable[[dict[str, Any]], list[int]]:
    return answer_ids


@pytest.fixture
def stub() -> Callable[..., contextlib.AbstractAsyncContextManager[Stub]]:
    """Start a stub whose POSTs are answered by a script."""

    @contextlib.asynccontextmanager
    async def start(script: Script, health: int = 200) -> AsyncIterator[Stub]:
        running = Stub(script, health)
        await running.open()
        try:
            yield running
        finally:
            running.close()

    return start


@pytest.fixture
def replay(stub: Any, tmp_path: Path) -> Callable[..., Replayed]:
    """Replay a spec against a stub that answers by a script, into a folder of its own."""

    def run(script: Script, spec: ReplaySpec, folder: str = "run", **options: Any) -> Replayed:
        async def go() -> Replayed:
            async with stub(script) as server:
                return await into(tmp_path / folder, spec, server.url, **options)

        return asyncio.run(go())

    return run


@pytest.fixture(name="into")
def _into() -> Callable[..., Awaitable[Replayed]]:
    return into


@pytest.fixture
def free_url() -> Iterator[str]:
    """An address at which nobody listens: the port is bound and never accepts."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture(scope="session")
def make_model_folder(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """Write a folder with a byte-level BPE tokeniser and the given chat template."""

    def make(template: object = CHATML, *, jinja_file: str | None = None, **config: Any) -> Path:
        folder = tmp_path_factory.mktemp("model")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=[
                AddedToken(text, special=True)
                for text in ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
            ],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        tokenizer.train_from_iterator(["user assistant system the quiet harbour"] * 9, trainer)
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(
            json.dumps(
                {
                    "bos_token": {"content": "<s>"},
                    "eos_token": "<|im_end|>",
                    "chat_template": template,
                    **config,
                }
            )
        )
        if jinja_file is not None:
            (folder / "chat_template.jinja").write_text(jinja_file)
        return folder

    return make


@pytest.fixture(scope="session")
def tokenizer(make_model_folder: Callable[..., Path]) -> ChatTokenizer:
    """A ChatML tokeniser."""
    return ChatTokenizer.from_folder(make_model_folder())
