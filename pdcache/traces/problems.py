"""What is wrong with the lines of a trace: counted, the first ones kept."""

from __future__ import annotations

from pdcache.errors import ReplayError

_KEPT = 10


class Problems:
    """Malformed lines; with `strict` the first one is raised."""

    def __init__(self, *, strict: bool = False) -> None:
        self.lines = 0
        self.first: list[ReplayError] = []
        self._strict = strict

    def add(self, error: ReplayError) -> None:
        """Count a malformed line.

        Raises:
            ReplayError: the error itself, with `strict`.
        """
        if self._strict:
            raise error
        self.lines += 1
        if len(self.first) < _KEPT:
            self.first.append(error)
