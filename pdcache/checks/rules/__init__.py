"""All rules; importing this package registers them."""

from __future__ import annotations

from pdcache.checks.rules import front, mode, sharing, sizes

__all__ = ["front", "mode", "sharing", "sizes"]
