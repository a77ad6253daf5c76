"""The folder of a run, read: requests, pages, timeline, environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from pdcache.replay.ceiling import CacheMode
from pdcache.replay.journal import (
    ENVIRONMENT_FILE,
    PAGES_FILE,
    REQUESTS_FILE,
    TIMELINE_FILE,
    read_environment,
    read_lines,
    unreadable,
)
from pdcache.replay.records import ReplayResult, RequestRecord
from pdcache.reports.environment import Environment

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
    """

    environment: Environment
    requests: tuple[RequestRecord, ...]
    pages: Mapping[Key, Pages] = field(default_factory=dict)
    timeline: tuple[Sample, ...] = ()

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

        A last line that was cut by a kill is left out.

        Raises:
            ReplayError: naming file:line, when it is not a run that this version reads.
        """
        path = Path(folder)
        environment = _environment(path)
        requests = _lines(path / REQUESTS_FILE, RequestRecord.from_json)
        timeline = _lines(path / TIMELINE_FILE, _sample)
        return cls(
            environment=environment,
            requests=_newest(requests),
            pages=dict(_lines(path / PAGES_FILE, _pages)),
            timeline=tuple(sorted(timeline, key=lambda sample: sample.at_s)),
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


def _newest(records: Iterable[RequestRecord]) -> tuple[RequestRecord, ...]:
    """Of a turn that was sent again the last record, where that one stands."""
    newest: dict[Key, RequestRecord] = {}
    for record in records:
        newest.pop((record.session, record.turn), None)
        newest[record.session, record.turn] = record
    return tuple(newest.values())


def _environment(folder: Path) -> Environment:
    try:
        return Environment.from_json(read_environment(folder))
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise unreadable(str(folder / ENVIRONMENT_FILE), cause) from cause


def _lines(path: Path, parse: Callable[[Mapping[str, Any]], _Line]) -> list[_Line]:
    """Every line of a file; none when it is missing."""
    parsed = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            parsed.append(parse(line))
        except (KeyError, ValueError, TypeError, AttributeError) as cause:
            raise unreadable(f"{path}:{number}", cause) from cause
    return parsed


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
