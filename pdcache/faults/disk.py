"""Sees a disk that is full before a manifest, a key file or a log cannot be written."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pdcache.cluster.live import Live

EVERY_S = 10.0
LEAST_BYTES = 256 << 20
"""What a disk must have left: logs of an hour, and some."""


def full(folder: str | Path) -> str | None:
    """What is wrong with the disk of a folder on this node, or None."""
    path = Path(folder)
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        left = shutil.disk_usage(path).free
    except OSError:
        return None
    if left >= LEAST_BYTES:
        return None
    return f"the disk of {folder} is full ({left >> 20} MiB left)"


async def watch_disk(live: Live) -> None:
    """Look for ever at the controller's node, where the gateway's manifest and the events are.

    Requests go on; a worker that dies now may stay in the gateway, and none may be started.
    """
    while True:
        home = Path(live.plan.manifest).parent
        for key, folder in (("disk", home), ("temp disk", Path(live.plan.temp))):
            if (ill := full(folder)) is not None:
                live.degrade(key, ill, "make room; what could not be written is tried again")
            else:
                live.heal(key, f"the disk of {folder} has room again")
        await asyncio.sleep(EVERY_S)
