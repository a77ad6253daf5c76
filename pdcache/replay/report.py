"""A replay's report: `report.json` and `requests.jsonl`, and both read back."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pdcache.errors import ReplayError
from pdcache.replay.records import ReplayResult, RequestRecord

Report = dict[str, Any]

REPORT_FILE = "report.json"
REQUESTS_FILE = "requests.jsonl"


def build_report(result: ReplayResult) -> Report:
    """The report as data, `"schema": 1`.

    Every turn counts completed requests only, `errors` the others. `hit_over_ceiling` is the
    sum of cached tokens over the sum of ceilings: above 1 when more was cached than finished
    requests explain, null when the ceiling is 0. `ttft_s`, `tpot_s` (a request's mean time a
    token after the first) and `send_lag_s` are over requests, `itl_s` over all gaps between
    tokens; all in seconds. `total` sums up the turns from the second on, where there is
    something to reuse. `losses.unexplained_tokens` adds up the tokens by which requests stayed
    under their ceiling, `losses.over_ceiling_tokens` those by which others exceeded it.
    """
    completed = result.completed
    numbers = sorted({record.turn for record in result.records})
    short = [record.ceiling_tokens - record.cached.total for record in completed]
    return {
        "schema": 1,
        "target": result.target,
        "mode": result.mode,
        "page_size": result.page_size,
        "wall_s": result.wall_s,
        "requests": {
            "planned": result.requests_planned,
            "completed": len(completed),
            "failed": len(result.failed),
        },
        "turns": [
            {"turn": number, **_summary([r for r in result.records if r.turn == number])}
            for number in numbers
        ],
        "total": _summary([record for record in result.records if record.turn >= 2]),
        "errors": len(result.failed),
        "error_kinds": dict(Counter(record.error.kind for record in result.failed if record.error)),
        "goodput": {
            "requests_per_s": _rate(len(completed), result.wall_s),
            "output_tokens_per_s": _rate(
                sum(record.output_tokens for record in completed), result.wall_s
            ),
        },
        "losses": {
            "unexplained_tokens": sum(tokens for tokens in short if tokens > 0),
            "over_ceiling_tokens": -sum(tokens for tokens in short if tokens < 0),
        },
    }


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value at `share` (0 to 1), linear between neighbours; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def write_report(result: ReplayResult, out_dir: str | Path) -> Report:
    """Write `report.json` and `requests.jsonl` into `out_dir`, and give the report.

    Raises:
        ReplayError: the folder cannot be written.
    """
    report = build_report(result)
    folder = Path(out_dir)
    lines = [json.dumps(record.to_json()) for record in result.records]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / REQUESTS_FILE).write_text("".join(f"{line}\n" for line in lines))
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
    except OSError as cause:
        raise ReplayError(
            f"the report cannot be written: {cause}.",
            where=str(folder),
            remedy="Give a folder that can be written.",
        ) from cause
    return report


def read_result(out_dir: str | Path) -> ReplayResult:
    """Read back what `write_report` wrote; `build_report` of it is the report.

    Raises:
        ReplayError: the folder holds no replay that this version reads.
    """
    folder = Path(out_dir)
    try:
        report = json.loads((folder / REPORT_FILE).read_text())
        if report["schema"] != 1:
            raise ValueError(f"schema {report['schema']} is unknown")
        lines = (folder / REQUESTS_FILE).read_text().splitlines()
        return ReplayResult(
            target=report["target"],
            mode=report["mode"],
            page_size=report["page_size"],
            requests_planned=report["requests"]["planned"],
            wall_s=report["wall_s"],
            records=tuple(RequestRecord.from_json(json.loads(line)) for line in lines),
        )
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise ReplayError(
            f"there is no readable replay: {cause!r}.",
            where=str(folder),
            remedy="Give a folder that `pdcache replay --out` wrote.",
        ) from cause


class Difference(NamedTuple):
    """Where two answers part: `position` is the index of the first token that differs."""

    session: str
    turn: int
    position: int


def compare_outputs(result_a: ReplayResult, result_b: ReplayResult) -> list[Difference]:
    """The turns whose answers differ in tokens, by session and turn; empty when all are equal.

    An answer that ends earlier differs where it ends; a turn that only one replay completed
    differs at 0. A turn whose predecessor differs had another prompt.
    """
    a, b = (
        {(record.session, record.turn): record.output_ids for record in result.completed}
        for result in (result_a, result_b)
    )
    return [
        Difference(*key, _first_difference(a.get(key, ()), b.get(key, ())))
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def _first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    for position, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return position
    return min(len(a), len(b))


def _summary(records: Sequence[RequestRecord]) -> dict[str, Any]:
    done = [record for record in records if record.error is None]
    cached = {
        "device": sum(record.cached.device for record in done),
        "host": sum(record.cached.host for record in done),
        "storage": sum(record.cached.storage for record in done),
    }
    ceiling = sum(record.ceiling_tokens for record in done)
    return {
        "requests": len(done),
        "errors": len(records) - len(done),
        "prompt_tokens": sum(record.prompt_tokens for record in done),
        "output_tokens": sum(record.output_tokens for record in done),
        "cached_tokens": cached,
        "ceiling_tokens": ceiling,
        "hit_over_ceiling": sum(cached.values()) / ceiling if ceiling else None,
        "ttft_s": _spread(record.ttft_s for record in done),
        "tpot_s": _spread(record.tpot_s for record in done),
        "itl_s": _spread(gap for record in done for gap in record.gaps_s),
        "send_lag_s": _spread(record.send_lag_s for record in done),
    }


def _spread(values: Iterable[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {f"p{share}": percentile(known, share / 100) for share in (50, 95, 99)}


def _rate(count: int, wall_s: float) -> float:
    return count / wall_s if wall_s > 0 else 0.0
