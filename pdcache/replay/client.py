"""The streaming client: a prompt in, tokens and their times out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from urllib.parse import urlsplit

import aiohttp

from pdcache.errors import ReplayError
from pdcache.replay.answer_stream import AnswerStream, error_text
from pdcache.replay.dialects import SGLANG, Dialect, GenerateRequest
from pdcache.replay.event_lines import EventLines
from pdcache.replay.records import CachedTokens, RequestError
from pdcache.sglang.served_by import HEADER as _PREFILL_HEADER

REACH_TIMEOUT_S = 5.0
_DRAIN_TIMEOUT_S = 1.0
# SGLang closes idle connections after 5 s: never pick one that is about to go.
_KEEP_ALIVE_S = 2.0
# smg names the worker that answered; of a prefill/decode pair the decode worker.
_WORKER_HEADER = "x-smg-routed-worker-id"

__all__ = ["Answer", "GenerateClient", "GenerateRequest"]


@dataclass(frozen=True)
class Answer:
    """What came back; the fields are those of `RequestRecord`. `sent_at_s` is perf_counter's.

    `text` is empty in dialects that answer in tokens.
    """

    output_ids: tuple[int, ...]
    text: str
    prompt_tokens: int | None
    counted_tokens: int | None
    cached: CachedTokens
    sent_at_s: float
    ttft_s: float | None
    gaps_s: tuple[float, ...]
    latency_s: float
    error: RequestError | None
    worker: str | None
    prefill: str | None


class GenerateClient:
    """An async context manager over one target, `http://host:port`."""

    def __init__(self, target: str, *, timeout_s: float, dialect: Dialect = SGLANG) -> None:
        """`timeout_s` bounds a request from sending to its last token.

        Raises:
            ReplayError: the target is not such an address.
        """
        self.target = _checked(target)
        self._url = self.target + dialect.path
        self._dialect = dialect
        self._timeout_s = timeout_s
        self._http: aiohttp.ClientSession

    async def __aenter__(self) -> GenerateClient:
        _allow_connections()
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(),  # asyncio.timeout bounds the whole request
            trust_env=False,  # a proxy of the environment would stand between and buffer
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.close()

    async def check_reachable(self) -> None:
        """Ask for `/health`, then for `/v1/models`, within 5 s together.

        Raises:
            ReplayError: neither answers 200.
        """
        seen = "no answer in time"
        try:
            async with asyncio.timeout(REACH_TIMEOUT_S):
                for path in ("/health", "/v1/models"):
                    async with self._http.get(self.target + path) as response:
                        if response.status == 200:
                            return
                        seen = f"{path} answers {response.status}"
        except TimeoutError:
            seen = f"no answer within {REACH_TIMEOUT_S:g} s"
        except (aiohttp.ClientError, OSError) as cause:
            seen = _reason(cause)
        raise ReplayError(
            f"the target cannot be used: {seen}.",
            where=self.target,
            remedy="Give the endpoint of a cluster that is UP, as `pdcache status` shows it.",
        )

    async def generate(self, request: GenerateRequest) -> Answer:
        """Send a request and read its answer; what goes wrong is in `error`, never raised."""
        stream = self._dialect.stream()
        body = self._dialect.body(request)
        sent_s = time.perf_counter()
        error: RequestError | None = None
        headers: Mapping[str, str] = {}
        try:
            async with (
                asyncio.timeout(self._timeout_s) as limit,
                self._http.post(self._url, data=body, headers=request.headers) as response,
            ):
                headers = response.headers
                if response.status == 200:
                    await _read(response.content, stream, limit)
                else:
                    error = _http_error(response.status, await response.read())
        except TimeoutError:
            error = RequestError("timeout", f"no whole answer within {self._timeout_s:g} s")
        except aiohttp.ClientConnectorError as cause:
            error = RequestError("connect", _reason(cause))
        except (aiohttp.ClientError, OSError) as cause:
            error = RequestError("broken_stream", _reason(cause))
        if stream.done:
            error = None  # what happens to the connection after the answer is no matter
        elif error is None:
            error = stream.error or RequestError(
                "broken_stream",
                f"the stream ended after {len(stream.stamps_s)} tokens without an end",
            )
        return _answer(stream, sent_s, error, headers)


async def _read(
    content: aiohttp.StreamReader, stream: AnswerStream, limit: asyncio.Timeout
) -> None:
    lines = EventLines()
    while chunk := await content.readany():
        if stream.done:
            continue
        now_s = time.perf_counter()
        for data in lines.feed(chunk):
            stream.feed(data, now_s)
        if stream.error:
            return
        if stream.done:
            # Read to the end, so that no gateway takes the answer for cut off by the client.
            limit.reschedule(asyncio.get_running_loop().time() + _DRAIN_TIMEOUT_S)


def _answer(
    stream: AnswerStream, sent_s: float, error: RequestError | None, headers: Mapping[str, str]
) -> Answer:
    stamps = stream.stamps_s
    return Answer(
        output_ids=tuple(stream.output_ids),
        text=stream.text,
        prompt_tokens=stream.prompt_tokens,
        counted_tokens=stream.counted_tokens,
        cached=stream.cached,
        sent_at_s=sent_s,
        ttft_s=stamps[0] - sent_s if stamps else None,
        gaps_s=tuple([later - earlier for earlier, later in pairwise(stamps)]),
        latency_s=(stamps[-1] if stream.done else time.perf_counter()) - sent_s,
        error=error,
        worker=headers.get(_WORKER_HEADER),
        prefill=headers.get(_PREFILL_HEADER),
    )


def _allow_connections() -> None:
    """Let the process open as many connections as it may at most."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _http_error(status: int, body: bytes) -> RequestError:
    text = body.decode("utf-8", "replace").strip()
    # A gateway may answer an error status with an event of the stream as its body.
    data = text.removeprefix("data:").split("\n")[0]
    try:
        message = error_text(json.loads(data))
    except (ValueError, RecursionError):
        message = error_text(text)
    return RequestError(f"http_{status}", message or "no text")


def _reason(cause: Exception) -> str:
    return str(cause) or type(cause).__name__


def _checked(target: str) -> str:
    try:
        parts = urlsplit(target)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ReplayError(
            "this is not the address of a server.",
            where=target,
            remedy="Write it as http://host:port, without a path.",
        )
    return f"{parts.scheme}://{parts.netloc}"
