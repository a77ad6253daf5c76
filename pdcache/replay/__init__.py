"""Multi-turn replay: sessions against a live cluster, and where every cached token came from.

sessions = generate_chat(sessions=4, turns=4)          # or load_sessions("sessions.jsonl")
tokenizer = ChatTokenizer.from_folder(model_folder)
spec = ReplaySpec(sessions, tokenizer, page_size=64, mode="full_offload", concurrency=2)
with LiveView() as view:
    result = asyncio.run(run_replay(spec, "http://127.0.0.1:8000", on_event=view))
rich.print(turn_table(build_report(RunFolder.of_result(result))))   # pdcache.reports
"""

from __future__ import annotations

from pdcache.replay.ceiling import CacheMode, CeilingTracker
from pdcache.replay.dialogue import ChatTokenizer
from pdcache.replay.generate import generate_chat
from pdcache.replay.live import LiveView
from pdcache.replay.records import CachedTokens, ReplayResult, RequestError, RequestRecord
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
)

__all__ = [
    "BeforeTurn",
    "CacheMode",
    "CachedTokens",
    "CeilingTracker",
    "ChatTokenizer",
    "LiveView",
    "OnEvent",
    "ReplayEvent",
    "ReplayResult",
    "ReplaySpec",
    "ReplayStarted",
    "RequestError",
    "RequestRecord",
    "Session",
    "Turn",
    "TurnDone",
    "TurnSent",
    "dump_sessions",
    "generate_chat",
    "load_sessions",
    "run_replay",
]
