"""A replay from its options: workload read, folder made or taken up, sessions sent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pdcache.errors import ReplayError
from pdcache.models import tokenizer_digest
from pdcache.plan.lock import versions
from pdcache.replay.arrivals import Arrivals
from pdcache.replay.dialects import dialect
from pdcache.replay.dialogue import ChatTokenizer
from pdcache.replay.flush import flushing
from pdcache.replay.journal import ENVIRONMENT_FILE, Journal, read_environment, unreadable
from pdcache.replay.past import Past
from pdcache.replay.records import ReplaySummary
from pdcache.replay.run import run_replay
from pdcache.replay.sessions import load_sessions
from pdcache.replay.spec import BeforeTurn, OnEvent, ReplaySpec, Warmup
from pdcache.replay.target import Target
from pdcache.replay.timeline import Timeline


@dataclass(frozen=True)
class Options:
    """What a replay is told apart from its target, as `environment.json` keeps it.

    Attributes:
        workload: file of the sessions.
        arrivals: of an open loop, as `Arrivals.parse` reads it; None for a closed loop.
        warmup: as `Warmup.parse` reads it.
        reuse: False gives every request a cache salt of its own: nothing is reused.
        salt: of all requests, so that only they see each other's KV; None for none.
        flush: L1 and L2 of the prefill workers are emptied before every turn.
        body: further keys of every request's body.
        sample_s: seconds between samples of the workers' metrics.
    """

    workload: Path
    dialect: str = "sglang"
    concurrency: int = 2
    arrivals: str | None = None
    time_scale: float = 1.0
    seed: int = 0
    warmup: str = "0"
    reuse: bool = True
    salt: str | None = None
    flush: bool = False
    timeout_s: float = 600.0
    sample_s: float = 2.0
    body: Mapping[str, Any] = field(default_factory=dict)

    def spec(self, target: Target) -> ReplaySpec:
        """What is to be replayed.

        Raises:
            ReplayError: the workload, the model's tokenizer, or an option cannot be used.
        """
        return ReplaySpec(
            sessions=load_sessions(self.workload),
            tokenizer=ChatTokenizer.from_folder(target.model),
            page_size=target.page_size,
            mode=target.mode,
            dialect=dialect(self.dialect),
            concurrency=self.concurrency,
            arrivals=None if self.arrivals is None else Arrivals.parse(self.arrivals),
            time_scale=self.time_scale,
            seed=self.seed,
            warmup=Warmup.parse(self.warmup),
            timeout_s=self.timeout_s,
            context_tokens=target.context_tokens,
            reuse=self.reuse,
            extra_body={
                "model": target.served_name,
                **({} if self.salt is None else {"cache_salt": self.salt}),
                **self.body,
            },
            headers=target.headers,
            workers=target.workers,
        )


def recorded_options(folder: Path) -> Options:
    """The options of the run in a folder.

    Raises:
        ReplayError: there is no run that this version reads.
    """
    kept = read_environment(folder)["spec"]
    known = Options.__dataclass_fields__
    try:
        given = {key: value for key, value in kept.items() if key in known}
        return Options(**{**given, "workload": Path(kept["workload"])})
    except (KeyError, TypeError) as cause:
        raise unreadable(str(folder / ENVIRONMENT_FILE), cause) from cause


async def launch(
    options: Options,
    target: Target,
    folder: Path,
    *,
    resume: bool = False,
    on_event: OnEvent | None = None,
    before_turn: BeforeTurn | None = None,
) -> ReplaySummary:
    """Replay into a new folder, or go on with the run in an old one.

    Raises:
        ReplayError: as `run_replay`; the folder holds a run already; or `resume` was asked for a
            run of another workload, model, dialect, mode or page size.
    """
    spec = options.spec(target)
    environment = _environment(options, spec, target)
    past = Past()
    if resume:
        environment = _taken_up(folder, environment)
        past = Past.read(folder, spec.sessions)
    elif (folder / ENVIRONMENT_FILE).exists():
        raise ReplayError(
            "the folder holds a run already.",
            where=str(folder),
            remedy=f"Go on with it: `pdcache replay --resume {folder}`, or give another folder.",
        )
    if options.flush:
        before_turn = _flushing(options, target)
    timeline = None
    if target.watched:
        timeline = Timeline(
            target.watched, every_s=options.sample_s, new_client=target.new_client
        )  # fmt: skip
    with Journal(folder, environment) as journal:
        return await run_replay(
            spec, target.url, journal, past=past, timeline=timeline, on_event=on_event,
            before_turn=before_turn,
        )  # fmt: skip


def _flushing(options: Options, target: Target) -> BeforeTurn:
    if not target.flushable or target.new_client is None:
        raise ReplayError(
            "the workers behind an address are not known, so they cannot be flushed.",
            where="--flush",
            remedy="Give a cluster by its name.",
        )
    if options.arrivals is not None or options.concurrency != 1:
        raise ReplayError(
            "a flush waits until the workers are idle.",
            where="--flush",
            remedy="Run one session at a time: --concurrency 1.",
        )
    return flushing(target.flushable, target.new_client)


def _environment(options: Options, spec: ReplaySpec, target: Target) -> dict[str, Any]:
    arguments = asdict(replace(options, workload=options.workload.resolve()))
    arguments["workload"] = str(arguments["workload"])
    return {
        "schema": 1,
        "target": target.url,
        "mode": target.mode,
        "page_size": target.page_size,
        "started_at": _now(),
        "spec": {
            **arguments,
            "target": target.name,
            "workload_sha256": _sha256(options.workload),
            "model": target.served_name,
            "model_path": target.model,
            "tokenizer": tokenizer_digest(target.model),
            "requests_planned": spec.planned,
        },
        "versions": versions(),
        "topology": target.topology,
        "plan": target.plan,
        "capacity_tokens": target.capacity,
        "prefills": target.prefills,
        "prefetch_threshold": target.prefetch_threshold,
        "resumed_at": [],
        "steady_state": None,
        "wall_s": None,
        "complete": False,
    }


_SAME = ("mode", "page_size")
_SAME_SPEC = ("workload_sha256", "tokenizer", "dialect")


def _taken_up(folder: Path, new: dict[str, Any]) -> dict[str, Any]:
    """The environment of a run that goes on; refuses one of something else."""
    old = read_environment(folder)
    old_spec, new_spec = old["spec"], new["spec"]
    for name, before, here in [
        *((key, old.get(key), new[key]) for key in _SAME),
        *((key, old_spec.get(key), new_spec[key]) for key in _SAME_SPEC),
    ]:
        if before != here:
            raise ReplayError(
                f"the run was made with another {name}: {before}, not {here}.",
                where=str(folder),
                remedy="Go on with what it was made with, or start a new run with --out.",
            )
    kept = {key: old[key] for key in ("started_at", "spec", "resumed_at")}
    kept["resumed_at"] = [*kept["resumed_at"], _now()]
    return {**new, **kept}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as cause:
        raise ReplayError(f"cannot be read: {cause}.", where=str(path)) from cause


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
