"""Whatever stands in a file, a trace is read or refused with a place, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from pdcache.errors import ReplayError
from pdcache.traces.formats import FORMATS
from pdcache.traces.importing import import_sessions
from pdcache.traces.problems import Problems
from pdcache.traces.stats import trace_stats
from pdcache.traces.trace import Trace
from pdcache.traces.workload import workload_of

KEYS = (
    "timestamp", "input_length", "output_length", "hash_ids", "session_id", "delay", "chat_id",
    "parent_chat_id", "conversations", "messages", "role", "content", "from", "value", "session",
    "turns", "user", "max_tokens", "block_size", "blocks", "input_tokens",
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["user", "human", "gpt", "assistant"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=8,
)  # fmt: skip
objects = st.dictionaries(st.sampled_from(KEYS), values, max_size=8).map(json.dumps)
rows = st.lists(st.sampled_from(["5", "-1", "nan", "", '"', "\r", "a"]), max_size=4).map(",".join)
tables = st.lists(rows, max_size=4).map(
    lambda rows: "\n".join(["Timestamp,Request tokens,Response tokens", *rows])
)
lines = st.lists(objects | st.text(max_size=20), max_size=4).map("\n".join)
contents = st.binary(max_size=60) | (lines | tables).map(
    lambda text: text.encode(errors="surrogatepass")
)


@given(content=contents, name=st.none() | st.sampled_from(sorted(FORMATS)))
def test_any_file_is_read_or_refused(content: bytes, name: str | None) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        path.write_bytes(content)
        problems = Problems()
        try:
            trace = Trace(path, name)
            list(import_sessions(trace, problems))
            workload = workload_of(trace, Problems(), None, None)
            stats = trace_stats(workload.requests, workload.block_size, [1, 5])
        except ReplayError as error:
            assert error.where
            return
        assert stats.ceiling_blocks is None or 0 <= stats.ceiling_blocks <= 1
        for error in problems.first:
            assert str(error).startswith(f"{path}:")
