"""A target that cannot be reached: wait for it, or give up."""

from __future__ import annotations

import asyncio
import time

from pdcache.errors import ReplayError
from pdcache.replay.client import GenerateClient

_ASK_EVERY_S = 0.5


class Outage:
    """Asks a target that refused a connection until it is back, for all who wait together.

    Attributes:
        gave_up: why no more is to be sent, None as long as the target is there or may come back.
    """

    def __init__(self, client: GenerateClient, limit_s: float) -> None:
        """`limit_s`: seconds after which a target that is gone will not come back."""
        self.gave_up: str | None = None
        self._client = client
        self._limit_s = limit_s
        self._waiting: asyncio.Task[None] | None = None

    async def over(self) -> bool:
        """Wait until the target answers; False when it stays away."""
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._wait())
        await asyncio.shield(self._waiting)
        return self.gave_up is None

    async def _wait(self) -> None:
        deadline = time.monotonic() + self._limit_s
        while self.gave_up is None:
            try:
                await self._client.check_reachable()
                break
            except ReplayError as error:
                if time.monotonic() > deadline:
                    self.gave_up = f"the target is gone for {self._limit_s:g} s: {error.message}"
            await asyncio.sleep(_ASK_EVERY_S)
        self._waiting = None
