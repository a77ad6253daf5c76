"""The folder of a run, written while it goes on, so that a kill loses nothing that had ended."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import msgspec

from pdcache.errors import ReplayError
from pdcache.replay.records import ReplayResult, RequestRecord

ENVIRONMENT_FILE = "environment.json"
REQUESTS_FILE = "requests.jsonl"
PAGES_FILE = "pages.jsonl"
TIMELINE_FILE = "timeline.jsonl"


@dataclass(frozen=True)
class Pages:
    """Ids of the whole pages of a finished request: of its prompt, and what its answer adds."""

    prompt: Sequence[int]
    answer: Sequence[int]


class Journal:
    """A context manager that writes `environment.json` and appends lines to the other files.

    Every line is with the operating system when `request` or `sample` returns.
    """

    def __init__(self, folder: str | Path, environment: dict[str, Any]) -> None:
        """`environment` is what `environment.json` shall say; it may be changed until the end."""
        self.folder = Path(folder)
        self.environment = environment
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> Journal:
        """Make the folder, or take it up where an earlier run left it.

        Raises:
            ReplayError: it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.save()
            for name in (REQUESTS_FILE, PAGES_FILE, TIMELINE_FILE):
                _drop_half_line(self.folder / name)
                self._files[name] = (self.folder / name).open("ab", buffering=0)
        except OSError as cause:
            raise ReplayError(
                f"the folder cannot be written: {cause}.",
                where=str(self.folder),
                remedy="Give a folder that can be written.",
            ) from cause
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()
        self.save()

    def request(self, record: RequestRecord, pages: Pages | None) -> None:
        """Note a request that has ended; `pages` of those with a whole answer.

        Raises:
            ReplayError: the disk does not take it.
        """
        if pages is not None:
            line = {
                "session": record.session,
                "turn": record.turn,
                "prompt_pages": pages.prompt,
                "answer_pages": pages.answer,
                "prompt_tokens": record.prompt_tokens,
                "output_tokens": record.output_tokens,
            }
            self._append(PAGES_FILE, line)  # first: no finished record is without its pages
        self._append(REQUESTS_FILE, record.to_json())

    def sample(self, at_s: float, worker: str, role: str, values: Mapping[str, float]) -> None:
        """Note the metrics of a worker, `at_s` seconds from the start.

        Raises:
            ReplayError: the disk does not take it.
        """
        line = {"at_s": at_s, "worker": worker, "role": role, "values": values}
        self._append(TIMELINE_FILE, line)

    def save(self) -> None:
        """Write `environment.json` anew, whole or not at all."""
        path = self.folder / ENVIRONMENT_FILE
        new = path.with_suffix(".new")
        new.write_text(json.dumps(self.environment, indent=2) + "\n", encoding="utf-8")
        new.replace(path)

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        data = memoryview(msgspec.json.encode(line) + b"\n")
        try:
            while data:
                data = data[self._files[name].write(data) :]
        except OSError as cause:
            raise ReplayError(
                f"{name} cannot be written: {cause}.",
                where=str(self.folder),
                remedy="Make room; then go on with `pdcache replay --resume`.",
            ) from cause


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of a run; a last one that was cut is left out, a missing file empty.

    Raises:
        ReplayError: naming file:line, where a line is not a JSON object.
    """
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield msgspec.json.decode(line, type=dict[str, Any])
            except (msgspec.MsgspecError, ValueError) as cause:
                raise unreadable(f"{path}:{number}", cause) from cause


def read_environment(folder: str | Path) -> dict[str, Any]:
    """What `environment.json` of a run says.

    Raises:
        ReplayError: there is none that this version reads.
    """
    path = Path(folder) / ENVIRONMENT_FILE
    try:
        environment: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if environment["schema"] != 1:
            raise ValueError(f"schema {environment['schema']} is unknown")
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise unreadable(str(path), cause) from cause
    return environment


def read_run(folder: str | Path) -> ReplayResult:
    """A run with all its records; of a turn that was sent again, the last one.

    Raises:
        ReplayError: the folder holds no run that this version reads.
    """
    path = Path(folder)
    environment = read_environment(path)
    records: dict[tuple[str, int], RequestRecord] = {}
    for line in read_lines(path / REQUESTS_FILE):
        try:
            record = RequestRecord.from_json(line)
        except (KeyError, TypeError, AttributeError) as cause:
            raise unreadable(str(path / REQUESTS_FILE), cause) from cause
        records.pop((record.session, record.turn), None)
        records[record.session, record.turn] = record
    ends_s = max((record.finished_s for record in records.values()), default=0.0)
    try:
        return ReplayResult(
            target=environment["target"],
            mode=environment["mode"],
            page_size=environment["page_size"],
            requests_planned=environment["spec"]["requests_planned"],
            wall_s=ends_s if environment["wall_s"] is None else environment["wall_s"],
            records=tuple(records.values()),
        )
    except (KeyError, TypeError) as cause:
        raise unreadable(str(path / ENVIRONMENT_FILE), cause) from cause


def unreadable(where: str, cause: Exception) -> ReplayError:
    """The error of a file that is not that of a run."""
    return ReplayError(
        f"there is no readable run: {cause!r}.",
        where=where,
        remedy="Give a folder that `pdcache replay --out` wrote.",
    )


def _drop_half_line(path: Path) -> None:
    """Cut off a last line that has no end."""
    with contextlib.suppress(FileNotFoundError), path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65_536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            end = start + newline + 1 if newline >= 0 else start
            if newline >= 0:
                break
        file.truncate(end)
