"""A trace file, read item by item in memory that does not grow with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pdcache.errors import ReplayError
from pdcache.replay.fields import json_object
from pdcache.replay.sessions import Session
from pdcache.traces.formats import FORMATS, Format, csv_row, detect_format
from pdcache.traces.items import Item, read_items
from pdcache.traces.problems import Problems
from pdcache.traces.request import TraceRequest

# Lines that are looked at for one that tells the format.
_LOOKED_AT = 10


class Entry(NamedTuple):
    """What an item of a trace says: one request, or one session."""

    item: Item
    value: TraceRequest | Session


class Trace:
    """One file of a known format.

    Attributes:
        path: the file.
        name: of its format.
        format: how it is read.
        block_size: tokens a block of its content ids.
        header: the line of columns, where there is one.
    """

    def __init__(
        self, path: str | Path, format_name: str | None = None, block_size: int | None = None
    ) -> None:
        """Detect the format by the first item that can be read, unless it is given.

        Raises:
            ReplayError: the file cannot be read or is empty, or its format is not known.
        """
        self.path = Path(path)
        if format_name is not None and format_name not in FORMATS:
            raise ReplayError(
                f"there is no format {format_name!r}.",
                where="--format",
                remedy=f"Give one of {', '.join(FORMATS)}.",
            )
        beginning = list(islice(read_items(self.path, Problems()), _LOOKED_AT))
        if not beginning:
            raise ReplayError("the trace is empty.", where=str(path), remedy="Give another file.")
        first = beginning[0]
        self.name = format_name or detect_format(beginning, path)
        self.format: Format = FORMATS[self.name]
        self.block_size = self.format.block_size if block_size is None else block_size
        if self.block_size < 1:
            raise ReplayError(
                f"the block size is {block_size}.", where="--block-size", remedy="Give 1 or more."
            )
        self.header = first.text if self.format.csv else None
        self._columns = csv_row(first.text) if self.format.csv else []

    def entries(self, problems: Problems) -> Iterator[Entry]:
        """All items in the order of the file; malformed ones are counted and left out."""
        items = read_items(self.path, problems)
        if self.format.csv:
            next(items, None)
        names: set[int] = set()
        parse = self._parser()
        for item in items:
            try:
                value = parse(item)
                if isinstance(value, Session):
                    self._check_name(value, names, item)
            except ReplayError as error:
                problems.add(error)
                continue
            yield Entry(item, value)

    def requests(self, problems: Problems) -> Iterator[tuple[Item, TraceRequest]]:
        """As `entries`, of a format whose items are requests."""
        for item, value in self.entries(problems):
            assert isinstance(value, TraceRequest)
            yield item, value

    def sessions(self, problems: Problems) -> Iterator[tuple[Item, Session]]:
        """As `entries`, of a format whose items are sessions."""
        for item, value in self.entries(problems):
            assert isinstance(value, Session)
            yield item, value

    def parse(self, item: Item) -> TraceRequest | Session:
        """What an item says.

        Raises:
            ReplayError: naming file, line and field.
        """
        return self._parser()(item)

    def _parser(self) -> Callable[[Item], TraceRequest | Session]:
        request, session = self.format.request, self.format.session

        def parse(item: Item) -> TraceRequest | Session:
            where = f"{self.path}:{item.line}"
            fields = self._fields(item, where)
            if request is not None:
                return request(fields, where, self.block_size)
            assert session is not None
            return session(fields, where, f"d{item.number}")

        return parse

    def _fields(self, item: Item, where: str) -> Mapping[str, Any]:
        if not self.format.csv:
            return json_object(item.text, where, "one request or dialogue a line")
        values = csv_row(item.text)
        if len(values) != len(self._columns):
            raise ReplayError(
                f"the row has {len(values)} columns, the header {len(self._columns)}.",
                where=where,
                remedy="Give every column a value.",
            )
        return dict(zip(self._columns, values, strict=True))

    def _check_name(self, session: Session, names: set[int], item: Item) -> None:
        # Hashes of the names: a file may hold millions of sessions.
        known = len(names)
        names.add(hash(session.session))
        if len(names) == known:
            raise ReplayError(
                f"'session': the name {session.session!r} is taken by an earlier line.",
                where=f"{self.path}:{item.line}",
                remedy="Give every session a name of its own.",
            )
