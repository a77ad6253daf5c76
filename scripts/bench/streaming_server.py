"""A trivial streaming server for measuring clients: SGLang's `/generate` and OpenAI's two.

    python scripts/bench/streaming_server.py --port 9000 --ttft-ms 20 --itl-ms 5

Answers cost it next to nothing: token i of an answer is the letter `chr(97 + i % 26)`, an event a
token. It reports as cached what an unlimited cache of whole blocks of the prompt's bytes could
serve under the same `cache_salt`, so the count depends on what was sent and on nothing else.
`/stats` shows the requests that were answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from hashlib import blake2b
from typing import Any

BLOCK = 64
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Server:
    """Its time to first token and between tokens are slept, in seconds."""

    def __init__(self, ttft_s: float, itl_s: float) -> None:
        self.ttft_s, self.itl_s = ttft_s, itl_s
        self.answered = 0
        self._blocks: set[bytes] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept open from request to request."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                request, *lines = head.split("\r\n")
                headers = {
                    name.lower(): value for name, _, value in (own.partition(": ") for own in lines)
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                path = request.split(" ")[1]
                if request.startswith("POST"):
                    await self._answer(path, json.loads(body), writer)
                else:
                    self._page(path, writer)
        writer.close()

    def _page(self, path: str, writer: asyncio.StreamWriter) -> None:
        pages: dict[str, Any] = {
            "/stats": {"answered": self.answered},
            "/v1/models": {"object": "list", "data": [{"id": "trivial", "object": "model"}]},
        }
        text = json.dumps(pages.get(path, {})).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (len(text), text)
        )

    async def _answer(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self.ttft_s
        prompt, tokens = _asked(path, body)
        cached, total = self._cached(prompt, str(body.get("cache_salt"))), len(prompt)
        writer.write(HEAD)
        for number in range(tokens):
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += self.itl_s
            _event(writer, _token(path, number, tokens, total, cached))
            await writer.drain()
        if path != "/generate":
            details = {"cached_tokens": cached}
            usage = {"prompt_tokens": total, "completion_tokens": tokens,
                     "total_tokens": total + tokens, "prompt_tokens_details": details}  # fmt: skip
            _event(writer, {**_envelope(path), "choices": [], "usage": usage})
        _event(writer, None)
        writer.write(b"0\r\n\r\n")
        self.answered += 1
        await writer.drain()

    def _cached(self, prompt: list[int] | bytes, salt: str) -> int:
        """Length of the leading whole blocks that an earlier prompt had too; takes them in."""
        chain, hit, known = salt.encode(), 0, True
        for end in range(BLOCK, len(prompt) + 1, BLOCK):
            block = prompt[end - BLOCK : end]
            data = block if isinstance(block, bytes) else json.dumps(block).encode()
            chain = blake2b(chain + data, digest_size=16).digest()
            known = known and chain in self._blocks
            hit += BLOCK if known and end < len(prompt) else 0
            self._blocks.add(chain)
        return hit


def _asked(path: str, body: dict[str, Any]) -> tuple[list[int] | bytes, int]:
    """Prompt as tokens or bytes, and the tokens that are wanted."""
    if path == "/generate":
        return body["input_ids"], body["sampling_params"]["max_new_tokens"]
    if path == "/v1/completions":
        prompt = body["prompt"]
        return prompt.encode() if isinstance(prompt, str) else prompt, body["max_tokens"]
    said = [f"{own['role']}\n{_content(own['content'])}\n" for own in body["messages"]]
    return "".join(said).encode(), body.get("max_completion_tokens") or body["max_tokens"]


def _content(content: str | list[dict[str, str]]) -> str:
    """A message's text; some clients send it in parts."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _token(path: str, number: int, tokens: int, total: int, cached: int) -> dict[str, Any]:
    last = number == tokens - 1
    text = chr(97 + number % 26)
    if path == "/generate":
        meta = {"prompt_tokens": total, "completion_tokens": number + 1, "cached_tokens": cached,
                "finish_reason": {"type": "length"} if last else None}  # fmt: skip
        return {"text": text, "output_ids": [number % 26 + 100], "meta_info": meta}
    what = {"text": text} if path == "/v1/completions" else {"delta": {"content": text}}
    choice = {"index": 0, **what, "finish_reason": "length" if last else None}
    return {**_envelope(path), "choices": [choice]}


def _envelope(path: str) -> dict[str, Any]:
    kind = "text_completion" if path == "/v1/completions" else "chat.completion.chunk"
    return {"id": "trivial", "object": kind, "created": 0, "model": "trivial"}


def _event(writer: asyncio.StreamWriter, event: dict[str, Any] | None) -> None:
    data = b"data: " + (b"[DONE]" if event is None else json.dumps(event).encode()) + b"\n\n"
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


async def main() -> None:
    """Serve until it is ended; the first line that it prints is its address."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--port", type=int, default=0, help="0: a free one")
    arguments.add_argument("--ttft-ms", type=float, default=0.0)
    arguments.add_argument("--itl-ms", type=float, default=0.0)
    given = arguments.parse_args()
    own = Server(given.ttft_ms / 1e3, given.itl_ms / 1e3)
    server = await asyncio.start_server(own.serve, "127.0.0.1", given.port, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
