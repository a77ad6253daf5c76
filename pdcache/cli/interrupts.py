"""SIGINT and SIGTERM as KeyboardInterrupt that cannot get lost."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupts:
    """Raises KeyboardInterrupt on SIGINT and SIGTERM, and again at the next `check`.

    Python drops an exception that a signal raises inside a destructor or a callback; Ray's client
    runs many of those.
    """

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came before."""
        if self._asked:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        raise KeyboardInterrupt
