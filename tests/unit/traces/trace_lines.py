"""What the tests of traces share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Written = Callable[..., Path]
