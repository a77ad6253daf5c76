"""The replay: sessions against one target, in a closed or an open loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import nullcontext

from pdcache.replay.ceiling import CeilingTracker
from pdcache.replay.client import GenerateClient
from pdcache.replay.clock import Clock
from pdcache.replay.journal import Journal
from pdcache.replay.outage import Outage
from pdcache.replay.past import Past
from pdcache.replay.prompts import PromptMaker, Prompts
from pdcache.replay.records import ReplaySummary
from pdcache.replay.sessions import Session
from pdcache.replay.spec import (
    BeforeTurn,
    OnEvent,
    ReplayEvent,
    ReplaySpec,
    ReplayStarted,
    check_spec,
)
from pdcache.replay.timeline import Timeline
from pdcache.replay.turns import TurnRunner

# Sessions of an open loop whose prompts are made before they are due.
_AHEAD = 64

_Due = tuple[float, Session]
_Opened = tuple[float, Session, Prompts]


async def run_replay(
    spec: ReplaySpec,
    target: str,
    journal: Journal,
    *,
    past: Past | None = None,
    timeline: Timeline | None = None,
    on_event: OnEvent | None = None,
    before_turn: BeforeTurn | None = None,
) -> ReplaySummary:
    """Replay `spec` against `target` (`http://host:port`) and write `journal` as it goes.

    A session sends its next turn `think_s` after the answer. A turn that fails is recorded and
    ends its session; the others go on. `before_turn(session, turn)` is awaited before each
    sending, turns counted from 1; what it raises is recorded as that turn's error. `past` is what
    an earlier run left: its answers are not asked for again. `timeline` samples while requests
    run. When this is cancelled, requests that run are dropped and all files are whole.

    Raises:
        ReplayError: the spec or the target cannot be used, and nothing was sent; or the journal
            cannot be written.
    """
    check_spec(spec)
    past = past or Past()
    maker = PromptMaker(spec.tokenizer, chat=spec.dialect.chat)
    for session in spec.sessions:
        maker.check(session)
    maker.open(spec.sessions[0])
    tracker = CeilingTracker(spec.page_size, spec.mode)
    past.fill(tracker)
    tell = on_event or _ignore
    async with GenerateClient(target, timeout_s=spec.timeout_s, dialect=spec.dialect) as client:
        await client.check_reachable()
        tell(ReplayStarted(spec.planned, past.completed))
        clock = Clock(past.elapsed_s)
        turns = TurnRunner(spec, client, journal, tracker, clock, tell, before_turn, past)
        loop = _Loop(spec, past, maker, turns, clock, Outage(client, spec.give_up_s))
        async with timeline.during(clock, journal) if timeline else nullcontext():
            await loop.run()
            wall_s = clock.now_s()
    journal.environment |= {
        "wall_s": wall_s,
        "complete": loop.gave_up is None,
        "steady_state": {"from_s": turns.steady_from_s, "to_s": loop.last_begun_s},
    }
    return ReplaySummary(
        planned=spec.planned,
        completed=past.completed + turns.completed,
        failed=turns.failed,
        wall_s=wall_s,
        first_error=turns.first_error,
        gave_up=loop.gave_up,
    )


class _Loop:
    """Begins sessions, and sees to it that the turns of each follow one another.

    Attributes:
        last_begun_s: when the last session began; from then on the load falls.
    """

    def __init__(
        self,
        spec: ReplaySpec,
        past: Past,
        maker: PromptMaker,
        turns: TurnRunner,
        clock: Clock,
        outage: Outage,
    ) -> None:
        self.last_begun_s: float | None = None
        self._spec, self._past, self._maker = spec, past, maker
        self._turns, self._clock, self._outage = turns, clock, outage

    @property
    def gave_up(self) -> str | None:
        """Why sending was stopped, if it was."""
        return self._outage.gave_up

    async def run(self) -> None:
        """Run all sessions that are not finished.

        Raises:
            ReplayError: the journal cannot be written, or the template refuses a text.
        """
        due = self._due()
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._spec.arrivals is not None:
                    await self._open_loop(tasks, due)
                else:
                    pending = iter(due)
                    for _ in range(min(self._spec.concurrency, len(due))):
                        tasks.create_task(self._closed_loop(pending))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    def _due(self) -> list[_Due]:
        """Sessions that are left, with the time before which each does not begin.

        Those that an earlier run had begun go on at once, the others keep their distances.
        """
        spec, past = self._spec, self._past
        scale = spec.time_scale
        if spec.arrivals is not None:
            due = spec.arrivals.due(spec.sessions, time_scale=scale, seed=spec.seed)
        else:
            ordered = sorted(spec.sessions, key=lambda session: session.start_s)
            due = [(session.start_s * scale, session) for session in ordered]
        left = [own for own in due if own[1].session not in past.finished]
        if past.folder is None:
            return left
        begun = [(0.0, session) for _, session in left if session.session in past.answers]
        new = [own for own in left if own[1].session not in past.answers]
        first_s = new[0][0] if new else 0.0
        return begun + [(past.elapsed_s + at_s - first_s, session) for at_s, session in new]

    async def _closed_loop(self, pending: Iterator[_Due]) -> None:
        for due_s, session in pending:
            prompts = await asyncio.to_thread(self._open, session)
            await self._session(session, prompts, max(due_s, self._clock.now_s()))
            if self.gave_up is not None:
                return

    async def _open_loop(self, tasks: asyncio.TaskGroup, due: list[_Due]) -> None:
        opened: asyncio.Queue[_Opened | None] = asyncio.Queue(_AHEAD)
        ahead = tasks.create_task(self._open_ahead(due, opened))
        while (own := await opened.get()) is not None:
            due_s, session, prompts = own
            await self._clock.wait_until(due_s)
            if self.gave_up is not None:
                ahead.cancel()
                return
            tasks.create_task(self._session(session, prompts, due_s))

    async def _open_ahead(self, due: list[_Due], opened: asyncio.Queue[_Opened | None]) -> None:
        for due_s, session in due:
            prompts = await asyncio.to_thread(self._open, session)
            await opened.put((max(due_s, self._past.elapsed_s), session, prompts))
        await opened.put(None)

    def _open(self, session: Session) -> Prompts:
        prompts = self._maker.open(session)
        for answer in self._past.answers.get(session.session, ()):
            prompts.answered(answer)
        return prompts

    async def _session(self, session: Session, prompts: Prompts, begin_s: float) -> None:
        self.last_begun_s = self._clock.now_s()
        ready_s = begin_s
        done = len(self._past.answers.get(session.session, ()))
        for number, turn in enumerate(session.turns[done:], start=done + 1):
            due_s = ready_s + turn.think_s * self._spec.time_scale
            record, text = await self._turns.run(session, number, prompts.next(), due_s)
            ready_s = self._clock.now_s()
            if record.error is not None:
                if record.error.kind == "connect":
                    await self._outage.over()
                return
            prompts.answered(record.output_ids, text)


def _ignore(event: ReplayEvent) -> None:
    del event
