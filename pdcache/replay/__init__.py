"""Multi-turn replay: sessions against a live cluster, and where every cached token came from.

dump_sessions(generate_chat(sessions=4, turns=4), "sessions.jsonl")
target = server_target("http://127.0.0.1:8000", "smollm2-135m", mode="full_offload", page_size=64)
with LiveView() as view:
    options = Options(Path("sessions.jsonl"), concurrency=2)
    asyncio.run(launch(options, target, Path("out/run1"), on_event=view))
rich.print(turn_table(write_report("out/run1")))        # pdcache.reports
"""

from __future__ import annotations

from pdcache.replay.arrivals import Arrivals
from pdcache.replay.ceiling import CacheMode, CeilingTracker
from pdcache.replay.dialogue import ChatTokenizer
from pdcache.replay.generate import generate_chat
from pdcache.replay.journal import Journal, read_run
from pdcache.replay.launch import Options, launch, recorded_options
from pdcache.replay.live import LiveView
from pdcache.replay.past import Past
from pdcache.replay.records import (
    CachedTokens,
    ReplayResult,
    ReplaySummary,
    RequestError,
    RequestRecord,
)
from pdcache.replay.run import run_replay
from pdcache.replay.sessions import Session, Turn, dump_sessions, load_sessions
from pdcache.replay.spec import (
    BeforeTurn,
    OnEvent,
    ReplayEvent,
    ReplaySpec,
    ReplayStarted,
    TurnDone,
    TurnSent,
    Warmup,
)
from pdcache.replay.target import Target, cluster_target, server_target

__all__ = [
    "Arrivals",
    "BeforeTurn",
    "CacheMode",
    "CachedTokens",
    "CeilingTracker",
    "ChatTokenizer",
    "Journal",
    "LiveView",
    "OnEvent",
    "Options",
    "Past",
    "ReplayEvent",
    "ReplayResult",
    "ReplaySpec",
    "ReplayStarted",
    "ReplaySummary",
    "RequestError",
    "RequestRecord",
    "Session",
    "Target",
    "Turn",
    "TurnDone",
    "TurnSent",
    "Warmup",
    "cluster_target",
    "dump_sessions",
    "generate_chat",
    "launch",
    "load_sessions",
    "read_run",
    "recorded_options",
    "run_replay",
    "server_target",
]
