"""Multi-turn replay: sessions against a live cluster, and where every cached token came from.

sessions = generate_chat(sessions=4, turns=4)          # or load_sessions("sessions.jsonl")
tokenizer = ChatTokenizer.from_folder(model_folder)
spec = ReplaySpec(sessions, tokenizer, page_size=64, mode="full_offload", concurrency=2)
with LiveView() as view:
    result = asyncio.run(run_replay(spec, "http://127.0.0.1:8000", on_event=view))
rich.print(turn_table(write_report(result, "out/run1")))
"""

from __future__ import annotations

from pdcache.replay.ceiling import CacheMode, CeilingTracker
from pdcache.replay.dialogue import ChatTokenizer
from pdcache.replay.generate import generate_chat
from pdcache.replay.live import LiveView
from pdcache.replay.records import CachedTokens, ReplayResult, RequestError, RequestRecord
from pdcache.replay.report import (
    Difference,
    Report,
    build_report,
    compare_outputs,
    read_result,
    write_report,
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
)
from pdcache.replay.tables import side_by_side, turn_table

__all__ = [
    "BeforeTurn",
    "CacheMode",
    "CachedTokens",
    "CeilingTracker",
    "ChatTokenizer",
    "Difference",
    "LiveView",
    "OnEvent",
    "ReplayEvent",
    "ReplayResult",
    "ReplaySpec",
    "ReplayStarted",
    "Report",
    "RequestError",
    "RequestRecord",
    "Session",
    "Turn",
    "TurnDone",
    "TurnSent",
    "build_report",
    "compare_outputs",
    "dump_sessions",
    "generate_chat",
    "load_sessions",
    "read_result",
    "run_replay",
    "side_by_side",
    "turn_table",
    "write_report",
]
