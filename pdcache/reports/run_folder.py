"""The folder of a run, read: requests, pages, timeline, environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from pdcache.errors import ReplayError
from pdcache.replay.ceiling import CacheMode
from pdcache.replay.records import ReplayResult, RequestRecord
from pdcache.reports.environment import Environment

ENVIRONMENT_FILE = "environment.json"
REQUESTS_FILE = "requests.jsonl"
PAGES_FILE = "pages.jsonl"
TIMELINE_FILE = "timeline.jsonl"

Key = tuple[str, int]
_Line = TypeVar("_Line")


@dataclass(frozen=True)
class Pages:
    """The whole pages of a finished request, each named by itself and all before it.

    Attributes:
        prompt: pages of the prompt.
        answer: pages of prompt + answer[:-1] beyond those of the prompt.
        prompt_tokens: tokens of the prompt.
        output_tokens: tokens of the answer.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Sample:
    """Metrics of one worker at `at_s` seconds from the start."""

    at_s: float
    worker: str
    role: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class RunFolder:
    """A run as it was written, whole or cut short.

    Attributes:
        environment: what it was made with.
        requests: in order of completion; of a request that was sent again, the last record.
        pages: by session and turn; none for a request that failed.
        timeline: in order of time.
        cut: files whose last line was only half written, and is left out.
    """

    environment: Environment
    requests: tuple[RequestRecord, ...]
    pages: Mapping[Key, Pages] = field(default_factory=dict)
    timeline: tuple[Sample, ...] = ()
    cut: tuple[str, ...] = ()

    @property
    def completed(self) -> tuple[RequestRecord, ...]:
        """The requests that got a whole answer."""
        return tuple(record for record in self.requests if record.error is None)

    @property
    def measured(self) -> tuple[RequestRecord, ...]:
        """The requests of the steady-state window, failed ones among them."""
        return tuple(record for record in self.requests if not record.warmup)

    @property
    def wall_s(self) -> float:
        """Seconds from the start to the end of the last request."""
        if self.environment.wall_s is not None:
            return self.environment.wall_s
        return max((record.finished_s for record in self.requests), default=0.0)

    @classmethod
    def read(cls, folder: str | Path) -> RunFolder:
        """Read a folder; `pages.jsonl` and `timeline.jsonl` may be missing.

        A last line that was cut by a kill is left out and named in `cut`.

        Raises:
            ReplayError: naming file:line, when it is not a run that this version reads.
        """
        path = Path(folder)
        environment = _environment(path / ENVIRONMENT_FILE)
        cut: list[str] = []
        if not (path / REQUESTS_FILE).is_file():
            raise _unreadable(path / REQUESTS_FILE, "it is missing")
        requests = _lines(path / REQUESTS_FILE, RequestRecord.from_json, cut)
        pages = _lines(path / PAGES_FILE, _pages, cut)
        timeline = _lines(path / TIMELINE_FILE, _sample, cut)
        return cls(
            environment=environment,
            requests=tuple({(record.session, record.turn): record for record in requests}.values()),
            pages=dict(pages),
            timeline=tuple(sorted(timeline, key=lambda sample: sample.at_s)),
            cut=tuple(cut),
        )

    @classmethod
    def of_result(cls, result: ReplayResult) -> RunFolder:
        """A run that was never written: without pages and timeline."""
        environment = Environment(
            target=result.target,
            mode=cast(CacheMode, result.mode),
            page_size=result.page_size,
            spec={"requests_planned": result.requests_planned},
            wall_s=result.wall_s,
            complete=True,
        )
        return cls(environment, result.records)


def _environment(path: Path) -> Environment:
    try:
        return Environment.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise _unreadable(path, "it is missing") from None
    except KeyError as cause:
        raise _unreadable(path, f"the key {cause} is missing") from cause
    except (OSError, ValueError, TypeError, AttributeError) as cause:
        raise _unreadable(path, str(cause)) from cause


def _lines(path: Path, parse: Callable[[Mapping[str, Any]], _Line], cut: list[str]) -> list[_Line]:
    """Every line of a file; none when it is missing."""
    if not path.is_file():
        return []
    try:
        *whole, rest = path.read_bytes().split(b"\n")
    except OSError as cause:
        raise _unreadable(path, str(cause)) from cause
    parsed = []
    for number, line in enumerate(whole, start=1):
        if line.strip():
            parsed.append(_parse(line, f"{path}:{number}", parse))
    if rest.strip():
        try:
            parsed.append(_parse(rest, f"{path}:{len(whole) + 1}", parse))
        except ReplayError:
            cut.append(path.name)
    return parsed


def _parse(line: bytes, where: str, parse: Callable[[Mapping[str, Any]], _Line]) -> _Line:
    try:
        data = json.loads(line)
        if not isinstance(data, dict):
            raise TypeError("the line is not a JSON object")
        return parse(data)
    except KeyError as cause:
        raise _unreadable(where, f"the key {cause} is missing") from cause
    except (ValueError, TypeError, AttributeError) as cause:
        raise _unreadable(where, str(cause)) from cause


def _pages(line: Mapping[str, Any]) -> tuple[Key, Pages]:
    return (str(line["session"]), int(line["turn"])), Pages(
        prompt=tuple(line["prompt_pages"]),
        answer=tuple(line["answer_pages"]),
        prompt_tokens=int(line["prompt_tokens"]),
        output_tokens=int(line["output_tokens"]),
    )


def _sample(line: Mapping[str, Any]) -> Sample:
    values = {str(name): float(value) for name, value in line["values"].items()}
    return Sample(float(line["at_s"]), str(line["worker"]), str(line["role"]), values)


def _unreadable(where: Path | str, what: str) -> ReplayError:
    return ReplayError(
        f"there is no readable replay: {what}.",
        where=str(where),
        remedy="Give a folder that `pdcache replay --out` wrote.",
    )
