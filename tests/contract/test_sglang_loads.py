"""Loads of the installed SGLang tell what pdcache concludes from them: who works, who waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from pdcache.faults.progress import PEER_LIMITS, PEER_S
from pdcache.faults.stuck import LEFT
from pdcache.sglang.idle import PATH, load_of
from pdcache.sglang.ranks import AWAITED, Rank
from pdcache.sglang_cpu import pythonpath_folder, worker_environment

# SGLang's own snapshots of schedulers with made-up queues, told by its own `on_idle` and counted by
# its own `_record_step_counters`.
TELL = """
import inspect, json, sys
from collections import defaultdict, deque
from types import SimpleNamespace as Space
from unittest.mock import MagicMock
from sglang.srt.disaggregation.utils import DisaggregationMode as Mode
from sglang.srt.environ import envs
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.scheduler_components import load_inquirer
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.observability import metrics_collector

include, limits, counters = json.loads(sys.argv[1])
load_inquirer.get_parallel = lambda: Space(dp_rank=0)
load_inquirer.get_lora = lambda: Space(enable_lora=False)

def request(tokens, prefix=0):
    return Space(rid="r", seqlen=tokens, prefix_len=prefix, num_matched_prefix_tokens=prefix,
                 waiting_for_input=False)

def scheduler(mode, **queues):
    own = MagicMock()
    own.disaggregation_mode, own.is_fully_idle.return_value = mode, False
    own._last_stall_publish_ts = float("-inf")
    own.return_health_check_ipcs = deque()
    Scheduler.init_load_inquirer(own)
    at = defaultdict(list, queues)
    def hold(name):
        return lambda: Space(queue=at[name], retracted_queue=at["retracted"])
    names = inspect.signature(load_inquirer.SchedulerLoadInquirer).parameters
    inquirer = load_inquirer.SchedulerLoadInquirer(**{
        **{name: MagicMock() for name in names},
        "disaggregation_mode": mode, "max_total_num_tokens": 5000, "max_running_requests": 8,
        "pool_stats_observer": Space(get_pool_stats=lambda: Space(
            get_kv_token_stats=lambda: (at["used"] or 0, 0.0))),
        "get_running_batch": lambda: Space(reqs=at["running"]),
        "get_waiting_queue": lambda: at["waiting"],
        "waiting_queue_prefix_matched": lambda: True,
        "get_stats": lambda: metrics_collector.SchedulerStats(),
        "get_chunked_req": lambda: at["chunked"] or None,
        "get_disagg_prefill_bootstrap_queue": hold("bootstrap"),
        "get_disagg_prefill_inflight_queue": lambda: at["inflight"],
        "get_disagg_decode_prealloc_queue": hold("prealloc"),
        "get_disagg_decode_transfer_queue": hold("transfer"),
        "get_spec_total_num_forward_ct": lambda: 0,
        "get_total_prefill_uncached_tokens": lambda: own.total_prefill_uncached_tokens,
        "get_total_prefill_busy_us": lambda: own.total_prefill_busy_us,
        "get_decode_moment_totals": lambda: own.decode_moment_totals,
        "get_waiting_storage_span": None,
    })
    told = []
    own.publish_load_snapshot.side_effect = lambda force: told.append(
        inquirer.get_loads().to_dict(set(include)))
    own.load_publisher.publish_load_stat.return_value = None
    return own, told, at

def compute(own, iteration, tokens):
    batch = Space(forward_mode=ForwardMode.EXTEND, reqs=[request(tokens)], forward_iter=iteration,
                  launch_ts=0.0, extend_num_tokens=tokens, after_idle_gap=False)
    Scheduler._record_step_counters(own, batch, None)

def idle(own):
    own._last_stall_publish_ts = float("-inf")
    Scheduler.on_idle(own)

prompt = request(2048)
parked, told, _ = scheduler(Mode.PREFILL, waiting=[prompt], used=100)
idle(parked)
idle(parked)
rows = {"parked": told}

chunks, told, at = scheduler(Mode.PREFILL, chunked=request(4096, 1024))
compute(chunks, 1, 1024)
idle(chunks)
at["chunked"] = request(4096, 2048)
compute(chunks, 2, 1024)
idle(chunks)
rows["chunks"] = told

for name, mode, queues in (
    ("bootstrap", Mode.PREFILL, {"bootstrap": [prompt]}),
    ("inflight", Mode.PREFILL, {"inflight": [prompt], "waiting": [prompt]}),
    ("decode", Mode.DECODE, {"prealloc": [prompt], "transfer": [prompt] * 2,
                             "retracted": [prompt] * 3}),
    ("streams", Mode.DECODE, {"running": [prompt] * 2}),
    ("nothing", Mode.PREFILL, {}),
):
    own, told, _ = scheduler(mode, **queues)
    idle(own)
    rows[name] = told

own, running = MagicMock(), MagicMock()
running.is_empty.return_value = False
own.get_new_prebuilt_batch.return_value = None
own.update_running_batch.return_value = running
own.dp_attn_adapter.maybe_prepare_mlp_sync_batch.side_effect = lambda batch: batch
plan = Scheduler.get_next_disagg_decode_batch_to_run(own, running_batch=running)
text = inspect.getsource(metrics_collector)
print(json.dumps([
    rows, [getattr(envs, name).get() for name in limits],
    [name for name in counters if f'name="{name}"' in text], plan.batch_to_run is running,
]))
"""


@pytest.fixture(scope="module")
def told() -> Any:
    """Rows of loads by situation, SGLang's limits, its counters, and whether a batch is run."""
    include = PATH.partition("include=")[2].split(",")
    env = {**os.environ, **worker_environment(), "PYTHONPATH": str(pythonpath_folder())}
    for name in PEER_LIMITS:
        env.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", TELL, json.dumps([include, PEER_LIMITS, LEFT])],
        env=env, cwd="/", capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def ranks(told: Any) -> dict[str, list[Rank]]:
    return {name: list(load_of({"loads": rows}).ranks) for name, rows in told[0].items()}


def test_a_parked_prompt_is_told_again_and_again_and_only_the_time_is_new(
    ranks: dict[str, list[Rank]],
) -> None:
    first, second = ranks["parked"]
    assert second.at_s > first.at_s
    assert {**vars(second), "at_s": first.at_s} == vars(first)
    assert (first.prefills, first.waiting, first.running) == (True, 1, 0)
    assert (first.tokens, first.room_tokens, first.uncomputed_tokens) == (2148, 5000, 2048)
    assert first.busy
    assert first.waits_for_nobody


def test_each_chunk_of_a_prompt_counts_as_computed(ranks: dict[str, list[Rank]]) -> None:
    first, second = ranks["chunks"]
    assert [own.computed_tokens for own in (first, second)] == [1024, 2048]
    assert [own.uncomputed_tokens for own in (first, second)] == [3072, 2048]
    assert first.busy
    assert not first.waiting


@pytest.mark.parametrize(
    ("situation", "handed"),
    [
        ("bootstrap", {"prefill_bootstrap_queue_reqs": 1}),
        ("inflight", {"prefill_inflight_queue_reqs": 1}),
        ("decode", {"decode_prealloc_queue_reqs": 1, "decode_transfer_queue_reqs": 2,
                    "decode_retracted_queue_reqs": 3}),
        ("streams", {}),
        ("nothing", {}),
    ],
)  # fmt: skip
def test_each_queue_of_disaggregation_is_told(
    situation: str, handed: dict[str, int], ranks: dict[str, list[Rank]]
) -> None:
    (rank,) = ranks[situation]
    assert rank.handed == {**dict.fromkeys(AWAITED, 0), **handed}
    assert rank.running == (2 if situation == "streams" else 0)
    assert rank.busy is (situation != "nothing")
    assert not rank.waits_for_nobody


def test_decode_makes_a_step_whenever_requests_are_in_its_batch(told: Any) -> None:
    """Then what it tells is told by steps, and a new time is a step."""
    assert told[3] is True


def test_sglang_has_the_limits_and_the_counters(told: Any) -> None:
    _, limits, counters, _ = told
    assert limits == [PEER_S, PEER_S]
    assert counters == list(LEFT)
