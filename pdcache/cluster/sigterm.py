"""A terminated actor ends at once, so that Ray sees its death and starts it again."""

from __future__ import annotations

import ctypes
import signal


def end_at_sigterm() -> None:
    """Give SIGTERM back its default action in this process, from whatever thread.

    Ray's own handler (ray 2.60 ``_private/worker.py``) ends an actor's worker in an orderly way,
    which an actor with tasks of its own never reaches the end of: it answers nobody any more, and
    Ray takes it for alive.
    """
    # signal.signal works in the main thread only, and actors are made in another.
    ctypes.CDLL(None).signal(int(signal.SIGTERM), None)
