"""Server-sent events cut into lines, however the network cut them into chunks."""

from __future__ import annotations


class EventLines:
    """Takes chunks of bytes and gives the lines that are whole, without their ends.

    Lines end in LF or CRLF: those are what HTTP servers of language models send.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of all events' lines that are whole with this chunk.

        Only lines of the field `data` are given, without its name and the blanks around it.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]
