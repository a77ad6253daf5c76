"""The items of a trace file, one at a time: lines, or the elements of one JSON array."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from pdcache.errors import ReplayError
from pdcache.traces.problems import Problems

# Longer items are no lines of a trace, and would fill the memory.
MOST_BYTES = 16 << 20
_CHUNK = 1 << 20
_BETWEEN = " \t\r\n,"


class Item(NamedTuple):
    """One line or element.

    Attributes:
        line: the line it starts on, from 1.
        text: its bytes.
        number: of the line or element, from 1.
        offset: of a line in the file, in bytes; None for an element of an array.
    """

    line: int
    text: bytes
    number: int
    offset: int | None = None


def read_items(path: Path, problems: Problems) -> Iterator[Item]:
    """Items that are not blank; one that is too long or not JSON counts as malformed.

    Behind an element of an array that is not JSON nothing more is read.

    Raises:
        ReplayError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
            file.seek(0)
            read = _elements if start.startswith(b"[") else _lines
            yield from read(file, path, problems)
    except OSError as cause:
        raise ReplayError(
            f"cannot read the trace: {cause.strerror}.",
            where=str(path),
            remedy="Give a readable file.",
        ) from cause


def _lines(file: IO[bytes], path: Path, problems: Problems) -> Iterator[Item]:
    number = offset = 0
    while text := file.readline(MOST_BYTES):
        number += 1
        start = offset
        offset += len(text)
        if len(text) == MOST_BYTES and not text.endswith(b"\n"):
            while (rest := file.readline(MOST_BYTES)) and not rest.endswith(b"\n"):
                offset += len(rest)
            offset += len(rest)
            problems.add(_too_long(f"{path}:{number}"))
        elif text.strip():
            yield Item(number, text, number, start)


def _elements(file: IO[bytes], path: Path, problems: Problems) -> Iterator[Item]:
    decoder = json.JSONDecoder()
    chunks = iter(lambda: file.read(_CHUNK), b"")
    # A chunk may end within a character; what is left of it waits for the next.
    text, tail, line = "", b"", 1
    number, at = 0, -1
    for chunk in chunks:
        tail += chunk
        cut = _whole_characters(tail)
        text += tail[:cut].decode(errors="replace")
        tail = tail[cut:]
        if at < 0:
            at = text.index("[") + 1
            line += text.count("\n", 0, at)
        while True:
            while at < len(text) and text[at] in _BETWEEN:
                line += text[at] == "\n"
                at += 1
            if at == len(text) or text[at] == "]":
                break
            try:
                _, end = decoder.raw_decode(text, at)
            except json.JSONDecodeError as cause:
                # Near the end it may be whole with the next chunk.
                if "Unterminated" in cause.msg or cause.pos > len(text) - 16:
                    break
                line += text.count("\n", at, cause.pos)
                problems.add(_no_json(f"{path}:{line}", cause))
                return
            # A number or a name may go on in the next chunk.
            if end == len(text):
                break
            number += 1
            yield Item(line, text[at:end].encode(), number)
            line += text.count("\n", at, end)
            at = end
        text, at = text[at:], 0
        if len(text) > MOST_BYTES:
            problems.add(_too_long(f"{path}:{line}"))
            return
    if text[at : at + 1] != "]":
        problems.add(_no_json(f"{path}:{line}", "the array is cut off"))


def _whole_characters(data: bytes) -> int:
    """Where the last character begins, if it may be cut; at most 3 bytes from the end."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if size > back else len(data)
    return len(data)


def _no_json(where: str, cause: object) -> ReplayError:
    return ReplayError(
        f"the array is no JSON from here on: {cause}.",
        where=where,
        remedy="Fetch the file again, or write one JSON object a line.",
    )


def _too_long(where: str) -> ReplayError:
    return ReplayError(
        f"the line is longer than {MOST_BYTES >> 20} MiB.",
        where=where,
        remedy="Write one request or dialogue a line.",
    )
