"""What a command did, as the tests of the command line look at it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a command did: exit code, stdout, stderr (without colours)."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its stdout, which must be one JSON document."""
        return json.loads(self.out)


Pdcache = Callable[..., Outcome]
