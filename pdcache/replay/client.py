"""A streaming client of SGLang's `/generate`: tokens in, tokens and their times out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from pdcache.errors import ReplayError
from pdcache.replay.answer_stream import AnswerStream, error_text
from pdcache.replay.records import CachedTokens, RequestError

REACH_TIMEOUT_S = 5.0
_DRAIN_TIMEOUT_S = 1.0
# smg names the worker that answered; of a prefill/decode pair the decode worker.
_WORKER_HEADER = "x-smg-routed-worker-id"


@dataclass(frozen=True)
class GenerateRequest:
    """A prompt in tokens and what to ask for.

    `extra` holds further keys of the body; its `sampling_params` are added to the client's.
    """

    input_ids: Sequence[int]
    max_tokens: int
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def body(self) -> bytes:
        """The JSON to send: greedy, exactly `max_tokens` tokens, streamed."""
        sampling = {"temperature": 0, "max_new_tokens": self.max_tokens, "ignore_eos": True}
        return json.dumps(
            {
                **self.extra,
                "input_ids": list(self.input_ids),
                "sampling_params": {**sampling, **self.extra.get("sampling_params", {})},
                "stream": True,
            }
        ).encode()


@dataclass(frozen=True)
class Answer:
    """What came back; the fields are those of `RequestRecord`. `sent_at_s` is perf_counter's."""

    output_ids: tuple[int, ...]
    prompt_tokens: int | None
    cached: CachedTokens
    sent_at_s: float
    ttft_s: float | None
    gaps_s: tuple[float, ...]
    latency_s: float
    error: RequestError | None
    worker: str | None


class GenerateClient:
    """An async context manager over one target, `http://host:port`."""

    def __init__(self, target: str, *, timeout_s: float) -> None:
        """`timeout_s` bounds a request from sending to its last token.

        Raises:
            ReplayError: the target is not such an address.
        """
        self.target = _checked(target)
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            timeout=None,  # asyncio.timeout bounds the whole request
            trust_env=False,  # a proxy of the environment would stand between and buffer
            headers={"accept-encoding": "identity"},
            # SGLang closes idle connections after 5 s: never pick one that is about to go.
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0
            ),
        )

    async def __aenter__(self) -> GenerateClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def check_reachable(self) -> None:
        """Ask for `/health`, then for `/v1/models`, within 5 s together.

        Raises:
            ReplayError: neither answers 200.
        """
        seen = "no answer in time"
        try:
            async with asyncio.timeout(REACH_TIMEOUT_S):
                for path in ("/health", "/v1/models"):
                    response = await self._http.get(self.target + path)
                    if response.status_code == 200:
                        return
                    seen = f"{path} answers {response.status_code}"
        except TimeoutError:
            seen = f"no answer within {REACH_TIMEOUT_S:g} s"
        except httpx.HTTPError as cause:
            seen = _reason(cause)
        raise ReplayError(
            f"the target cannot be used: {seen}.",
            where=self.target,
            remedy="Give the endpoint of a cluster that is UP, as `pdcache status` shows it.",
        )

    async def generate(self, request: GenerateRequest) -> Answer:
        """Send a request and read its answer; what goes wrong is in `error`, never raised."""
        stream = AnswerStream()
        body = request.body()
        headers = {"content-type": "application/json", **request.headers}
        sent_s = time.perf_counter()
        error: RequestError | None = None
        worker: str | None = None
        try:
            async with (
                asyncio.timeout(self._timeout_s) as limit,
                self._http.stream(
                    "POST", f"{self.target}/generate", content=body, headers=headers
                ) as response,
            ):
                worker = response.headers.get(_WORKER_HEADER)
                if response.status_code == 200:
                    await _read(response, stream, limit)
                else:
                    error = _http_error(response.status_code, await response.aread())
        except TimeoutError:
            error = RequestError("timeout", f"no whole answer within {self._timeout_s:g} s")
        except httpx.ConnectError as cause:
            error = RequestError("connect", _reason(cause))
        except (httpx.HTTPError, httpx.StreamError, OSError) as cause:
            error = RequestError("broken_stream", _reason(cause))
        if stream.done:
            error = None  # what happens to the connection after the answer is no matter
        elif error is None:
            error = stream.error or RequestError(
                "broken_stream",
                f"the stream ended after {len(stream.output_ids)} tokens without an end",
            )
        return _answer(stream, sent_s, error, worker)


async def _read(response: httpx.Response, stream: AnswerStream, limit: asyncio.Timeout) -> None:
    rest = b""
    async for chunk in response.aiter_bytes():
        if stream.done:
            continue
        now_s = time.perf_counter()
        # httpx's own aiter_lines also splits at U+2028 and the like, inside of JSON texts.
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            stream.feed(line, now_s)
        if stream.error:
            return
        if stream.done:
            # Read to the end, so that no gateway takes the answer for cut off by the client.
            limit.reschedule(asyncio.get_running_loop().time() + _DRAIN_TIMEOUT_S)


def _answer(
    stream: AnswerStream, sent_s: float, error: RequestError | None, worker: str | None
) -> Answer:
    stamps = stream.stamps_s
    return Answer(
        output_ids=tuple(stream.output_ids),
        prompt_tokens=stream.prompt_tokens,
        cached=stream.cached,
        sent_at_s=sent_s,
        ttft_s=stamps[0] - sent_s if stamps else None,
        gaps_s=tuple(later - earlier for earlier, later in pairwise(stamps)),
        latency_s=(stamps[-1] if stream.done else time.perf_counter()) - sent_s,
        error=error,
        worker=worker,
    )


def _http_error(status: int, body: bytes) -> RequestError:
    text = body.decode("utf-8", "replace").strip()
    # A gateway may answer an error status with an event of the stream as its body.
    data = text.removeprefix("data:").split("\n")[0]
    try:
        message = error_text(json.loads(data))
    except ValueError:
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
