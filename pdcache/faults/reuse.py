"""Proves reuse again and again on the live cluster: pages that are never loaded move no metric."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from pdcache.changes.change import ChangeState
from pdcache.changes.kinds import has_storage
from pdcache.cluster.readmission import shared_pages
from pdcache.errors import PdcacheError
from pdcache.proof.bench import Bench
from pdcache.proof.canary import Canary
from pdcache.proof.hops import answer_on_hot_prompt, between_prefills
from pdcache.topology.schema import Mode, Role

if TYPE_CHECKING:
    from pdcache.cluster.live import Live

KEY = "reuse"
TRIES = 2
"""Canaries in a row that must fail: one may meet a moment of load."""

AGAIN_S = 5.0
LOOK_S = 5.0
"""How soon a change of ``watch.reuse_s`` counts."""

REQUEST_LIMIT_S = 60.0


async def watch_reuse(live: Live) -> None:
    """Send a canary through a hop every so often, the hops in turn; flushes nobody."""
    turn = failed = 0
    while True:
        await _until_due(live, longest_s=AGAIN_S if failed else math.inf)
        change = live.desired.change
        if change is not None and change.state is ChangeState.RUNNING:
            continue
        if not live.desired.serving or live.reasons.keys() - {KEY} or live.ill():
            continue
        try:
            canary = await _canary(live, turn)
        except PdcacheError:
            continue  # A worker that does not answer is for its own watch.
        if canary is None:
            continue
        failed = 0 if canary.proved else failed + 1
        if canary.proved:
            turn += 1
            live.heal(KEY, f"reuse works again: {canary.evidence}")
        elif failed >= TRIES:
            text = f"{canary.name} ({canary.hop}): {canary.evidence}"
            live.degrade(KEY, text, "see `pdcache verify` for the probable causes")


async def _until_due(live: Live, *, longest_s: float) -> None:
    """Wait as long as the topology says, which another may replace meanwhile; 0 is for ever."""
    waited_s = 0.0
    while True:
        every_s = live.desired.topology.watch.reuse_s
        if not every_s:
            live.heal(KEY, "reuse is not watched any more")
        left_s = min(every_s, longest_s) - waited_s if every_s else LOOK_S
        if left_s <= 0:
            return
        await asyncio.sleep(min(left_s, LOOK_S))
        waited_s += min(left_s, LOOK_S)


async def _canary(live: Live, turn: int) -> Canary | None:
    prefills = [own for own in live.serving(Role.PREFILL) if has_storage(own)]
    decodes = live.serving(Role.DECODE)
    if not prefills or not decodes:
        return None
    reader = prefills[turn % len(prefills)]
    peers = [
        own for own in prefills if own is not reader and shared_pages(own) == shared_pages(reader)
    ]
    decode = decodes[turn % len(decodes)]
    async with live.new_client(REQUEST_LIMIT_S) as client:
        bench = Bench(live.plan, client)
        if live.plan.mode is Mode.FULL_OFFLOAD and has_storage(decode) and turn % 2:
            return await answer_on_hot_prompt(bench, reader, decode)
        if peers:
            return await between_prefills(bench, peers[turn % len(peers)], reader, decode)
    return None
