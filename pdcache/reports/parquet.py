"""`requests.parquet`: one row a request, for pandas, DuckDB and the like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pdcache.replay.records import RequestRecord
from pdcache.reports.ceilings import Ceilings, ceilings
from pdcache.reports.losses import NAMES, Losses, losses
from pdcache.reports.run_folder import RunFolder

_COLUMNS: Mapping[str, tuple[pa.DataType, Callable[[RequestRecord], Any]]] = {
    "session": (pa.string(), lambda r: r.session),
    "turn": (pa.int32(), lambda r: r.turn),
    "warmup": (pa.bool_(), lambda r: r.warmup),
    "sent_s": (pa.float64(), lambda r: r.sent_s),
    "finished_s": (pa.float64(), lambda r: r.finished_s),
    "send_lag_s": (pa.float64(), lambda r: r.send_lag_s),
    "ttft_s": (pa.float64(), lambda r: r.ttft_s),
    "tpot_s": (pa.float64(), lambda r: r.tpot_s),
    "latency_s": (pa.float64(), lambda r: r.latency_s),
    "gaps_s": (pa.list_(pa.float64()), lambda r: list(r.gaps_s)),
    "prompt_tokens": (pa.int64(), lambda r: r.prompt_tokens),
    "output_tokens": (pa.int64(), lambda r: r.output_tokens),
    "expected_output_tokens": (pa.int64(), lambda r: r.expected_output_tokens),
    "cached_device": (pa.int64(), lambda r: r.cached.device),
    "cached_host": (pa.int64(), lambda r: r.cached.host),
    "cached_storage": (pa.int64(), lambda r: r.cached.storage),
    "prefill": (pa.string(), lambda r: r.prefill),
    "worker": (pa.string(), lambda r: r.worker),
    "error": (pa.string(), lambda r: r.error.kind if r.error else None),
    "error_message": (pa.string(), lambda r: r.error.message if r.error else None),
}
_CEILINGS = ("offered", "exact", "full", "prompts", "mode")


def write_parquet(run: RunFolder, path: Path) -> None:
    """Write every request, warm-up and failed ones too, with its ceilings and losses in tokens.

    Losses of a failed request are null: it was not served.

    Raises:
        OSError: the file cannot be written.
    """
    of, lost = ceilings(run), losses(run)
    rows = [(record, (record.session, record.turn)) for record in run.requests]
    arrays = {
        name: pa.array([value(record) for record, _ in rows], type=kind)
        for name, (kind, value) in _COLUMNS.items()
    }
    for name in _CEILINGS:
        arrays[f"ceiling_{name}"] = pa.array([_ceiling(of[key], name) for _, key in rows])
    for name in NAMES:
        arrays[f"lost_{name}"] = pa.array([_loss(lost.get(key), name) for _, key in rows])
    pq.write_table(pa.table(arrays), path)


def _ceiling(of: Ceilings, name: str) -> int:
    return int(getattr(of, name))


def _loss(lost: Losses | None, name: str) -> int | None:
    return None if lost is None else lost.named[name]
