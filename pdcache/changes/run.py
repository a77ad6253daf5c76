"""Runs the steps of a change one after the other; each is kept before and after it is done."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from pdcache.changes.actions import ACTIONS
from pdcache.changes.change import Change, ChangeState, Step, StepState
from pdcache.changes.steps import steps_back
from pdcache.errors import PdcacheError

if TYPE_CHECKING:
    from pdcache.cluster.live import Live

SPARE_S = 5.0


async def run_change(live: Live, change: Change) -> None:
    """Run what is left of a change; the first step that fails stops it.

    A step that an earlier controller left running is done again: actions are idempotent.
    """
    change.state, change.reason = ChangeState.RUNNING, None
    live.events.add("change", "change", f"{change.title}: begins or goes on", "")
    live.save()
    for step in change.steps:
        if step.state is StepState.DONE:
            continue
        if not await _run_step(live, change, step):
            live.events.add("change", "change", change.verdict(), "stopped")
            return
    if change.rolling_back:
        change.state = ChangeState.ROLLED_BACK
        live.desired.plan, live.desired.topology = change.before
    else:
        change.state = ChangeState.DONE
        live.desired.plan, live.desired.topology = change.plan, change.topology
    live.events.add("change", "change", change.verdict(), "")
    live.save()


def roll_back(live_plan_names: set[str], change: Change) -> Change:
    """The same change turned round: its steps lead back to where it began."""
    change.steps = steps_back(change, live_plan_names)
    change.rolling_back = True
    change.state, change.reason = ChangeState.RUNNING, None
    return change


async def _run_step(live: Live, change: Change, step: Step) -> bool:
    begin = time.monotonic()
    reason: str | None = None
    step.state = StepState.RUNNING
    live.save()
    try:
        # An action says itself what it waited for; this limit is for one that does not.
        limit_s = change.limit_s + SPARE_S
        await asyncio.wait_for(ACTIONS[step.action](live, step, change.limit_s), limit_s)
    except PdcacheError as error:
        reason = str(error)
    except TimeoutError:
        reason = f"not done within {change.limit_s:.0f} s"
    except Exception as error:
        reason = f"a defect of pdcache: {type(error).__name__}: {error}"
    if reason is None:
        step.state = StepState.DONE
    else:
        step.state = StepState.FAILED
        change.state, change.reason = ChangeState.FAILED, f"{step}: {reason}"
    step.seconds = round(time.monotonic() - begin, 2)
    live.save()
    return step.state is StepState.DONE
