"""Metrics of every worker of a cluster, sampled while a replay runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import httpx

from pdcache.replay.clock import Clock
from pdcache.replay.journal import Journal
from pdcache.replay.metrics import needed_series

_LIMIT_S = 5.0


@dataclass(frozen=True)
class Watched:
    """A process whose metrics are sampled; `url` is that of its metrics."""

    name: str
    role: str
    url: str


class Timeline:
    """Samples `watched` every `every_s` seconds into the journal, and at both ends."""

    def __init__(
        self,
        watched: Sequence[Watched],
        *,
        every_s: float = 2.0,
        new_client: Callable[[], httpx.AsyncClient] | None = None,
    ) -> None:
        """`new_client` makes the HTTP client, with the keys that the workers want."""
        self._watched = watched
        self._every_s = every_s
        self._new_client = new_client or (lambda: httpx.AsyncClient(trust_env=False))

    @contextlib.asynccontextmanager
    async def during(self, clock: Clock, journal: Journal) -> AsyncIterator[None]:
        """Sample just before, during and just after what stands in the with block.

        Raises:
            ReplayError: the journal cannot be written.
        """
        async with self._new_client() as client:
            await self._sample(client, clock, journal)
            sampling = asyncio.create_task(self._go_on(client, clock, journal))
            try:
                yield
            finally:
                sampling.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sampling
            await self._sample(client, clock, journal)

    async def _go_on(self, client: httpx.AsyncClient, clock: Clock, journal: Journal) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self._sample(client, clock, journal)

    async def _sample(self, client: httpx.AsyncClient, clock: Clock, journal: Journal) -> None:
        """A line for each worker that answers; one that does not leaves a hole."""
        pages = await asyncio.gather(*(_page(client, own.url) for own in self._watched))
        at_s = clock.now_s()
        for own, page in zip(self._watched, pages, strict=True):
            if page is not None:
                journal.sample(at_s, own.name, own.role, needed_series(page))


async def _page(client: httpx.AsyncClient, url: str) -> str | None:
    try:
        async with asyncio.timeout(_LIMIT_S):
            response = await client.get(url)
    except (httpx.HTTPError, TimeoutError):
        return None
    return response.text if response.status_code == 200 else None
