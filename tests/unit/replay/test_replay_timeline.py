from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from pdcache.replay import Journal
from pdcache.replay.clock import Clock
from pdcache.replay.journal import read_lines
from pdcache.replay.metrics import needed_series
from pdcache.replay.timeline import Timeline, Watched

PAGE = """\
# HELP sglang:num_queue_reqs The number of requests in the waiting queue.
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{model_name="m",tp_rank="0"} 3.0
sglang:num_queue_reqs{model_name="m",tp_rank="1"} 4.0
sglang:num_queue_reqs_created{model_name="m"} 1.7e+09
sglang:cached_tokens_total{cache_source="device",model_name="{odd}"} 640.0
sglang:cached_tokens_total{model_name="m",cache_source="storage"} 1.28e+02
sglang:storage_prefetch_unfulfilled_tokens_total{reason="below_threshold",tp_rank="0"} 9.0
sglang:prefetch_bandwidth_bucket{le="0.1"} 5.0
sglang:prefetch_bandwidth_sum{tp_rank="0"} 2.5
sglang:prefetch_bandwidth_count{tp_rank="0"} 5.0
sglang:time_to_first_token_seconds_bucket{le="0.1"} 5.0
sglang:gen_throughput{model_name="m"} NaN
master_key_count 12
master_allocated_bytes 4096
process_open_fds 11
"""


def test_only_needed_series_are_kept_and_summed_over_ranks() -> None:
    assert needed_series(PAGE) == {
        "sglang:num_queue_reqs": 7.0,
        "sglang:cached_tokens_total{cache_source=device}": 640.0,
        "sglang:cached_tokens_total{cache_source=storage}": 128.0,
        "sglang:storage_prefetch_unfulfilled_tokens_total{reason=below_threshold}": 9.0,
        "sglang:prefetch_bandwidth_sum": 2.5,
        "sglang:prefetch_bandwidth_count": 5.0,
        "master_key_count": 12.0,
        "master_allocated_bytes": 4096.0,
    }


@given(st.text(max_size=200))
def test_no_page_makes_it_raise(page: str) -> None:
    needed_series(page)
    needed_series(f'master_key_count{{a="{page}"}} {page}\n')


async def serving(page: Any) -> tuple[web.AppRunner, str]:
    app = web.Application()
    app.router.add_get("/metrics", page)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"


def test_workers_are_sampled_at_both_ends_and_between(tmp_path: Path, free_url: str) -> None:
    requests = 0
    three = asyncio.Event()

    async def page(request: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        if requests == 3:
            three.set()
        return web.Response(text=f"master_key_count {requests}\n")

    async def go() -> float:
        runner, url = await serving(page)
        watched = [Watched("store-master", "store", url), Watched("gone", "prefill", free_url)]
        clock = Clock()
        with Journal(tmp_path, {}) as journal:
            async with Timeline(watched, every_s=0.05).during(clock, journal):
                begun_s = clock.now_s()
                await three.wait()
                ended_s = clock.now_s()
        lines = list(read_lines(tmp_path / "timeline.jsonl"))
        await runner.cleanup()
        assert {line["worker"] for line in lines} == {"store-master"}, "who is gone leaves a hole"
        assert lines[0]["at_s"] <= begun_s and ended_s <= lines[-1]["at_s"]
        counts = [line["values"]["master_key_count"] for line in lines]
        assert counts == sorted(set(counts)) and counts[0] == 1
        return len(lines)

    assert asyncio.run(go()) >= 3
