"""The few series of a worker's metrics that a replay keeps, out of thousands of lines."""

from __future__ import annotations

import math
import re

# Names as SGLang 0.5.23 (observability/metrics_collector.py) and Mooncake's master export them.
_SGLANG = (
    r"num_(?:running|queue|retracted|paused|prefill_\w+_queue|decode_\w+_queue)_reqs",
    r"num_(?:bootstrap_failed_reqs|transfer_failed_reqs|prefill_retries|aborted_requests)_total",
    r"(?:full_)?token_usage|num_used_tokens|gen_throughput|cache_hit_rate|utilization",
    r"max_total_num_tokens|context_len|page_size",
    r"(?:prompt|generation|cached|evicted|load_back|prefetched|backuped)_tokens_total",
    r"num_requests_total|load_back_bytes_total|(?:eviction|load_back)_duration_seconds_(?:sum|count)",
    r"storage_prefetch_\w+_total",
    r"hicache_\w+_(?:tokens|total)|hicache_backup_duration_seconds_(?:sum|count)",
    r"(?:prefetch|backup)_(?:pgs|bandwidth)_(?:sum|count)",
    r"kv_transfer_\w+_(?:sum|count)",
    r"kv_transfer_(?:speed_gb_s|latency_ms|bootstrap_ms|alloc_ms|total_mb)",
)
_MASTER = (
    r"master_(?:key_count|\w+_bytes|active_clients|evicted_key_count|successful_evictions_total)",
    r"master_put_start_alloc_failures_total",
)
_WANTED = re.compile(
    rf"^(sglang:(?:{'|'.join(_SGLANG)})|{'|'.join(_MASTER)})(\{{.*\}})?[ \t]+([^ \t\r\n]+)",
    re.MULTILINE,
)
_KEPT_LABEL = re.compile(r'[{,](cache_source|reason)="([^"]*)"')


def needed_series(text: str) -> dict[str, float]:
    """The kept series of a page in Prometheus' text format, summed over ranks.

    A label `cache_source` or `reason` stays, as in `sglang:cached_tokens_total{cache_source=host}`;
    over all other labels values are summed. Of histograms only sum and count are kept.
    """
    values: dict[str, float] = {}
    for name, labels, number in _WANTED.findall(text):
        try:
            value = float(number)
        except ValueError:
            continue
        if not math.isfinite(value):
            continue
        kept = ",".join(f"{label}={shown}" for label, shown in _KEPT_LABEL.findall(labels))
        key = f"{name}{{{kept}}}" if kept else name
        values[key] = values.get(key, 0.0) + value
    return values
