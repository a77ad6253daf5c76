"""A value that a server gets, who decided it, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Origin = Literal["user", "default", "mode", "device", "rule"]


@dataclass(frozen=True)
class Setting:
    """A value, who decided it, and why. ``path`` is where a user would change it in the YAML."""

    value: Any
    origin: Origin
    reason: str
    path: str

    @staticmethod
    def given(value: Any, path: str) -> Setting:
        """What the user set at a path."""
        return Setting(value, "user", f"set in {path}", path)


Settings = dict[str, Setting]
"""By SGLang's own argument names (``hicache_mem_layout``, ``page_size``, …)."""
