"""Who is stuck and who only waits: made-up loads, a look every few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from golden.plans import golden_plan

from pdcache.faults import stuck as stuck_module
from pdcache.faults.loads import EVERY_S
from pdcache.faults.progress import STEP_S, STORE_S, Still, Wait, limit_s
from pdcache.faults.stuck import LEFT, StuckWorkers
from pdcache.plan.process import Process
from pdcache.sglang.idle import Load
from pdcache.sglang.ranks import Rank

PLAN = golden_plan("full_offload")
PREFILL, DECODE = PLAN.process("prefill-0"), PLAN.process("decode-0")
GIVEN_UP_S = float(PREFILL.env["SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT"])
PEERS_S = GIVEN_UP_S + 2 * STEP_S
HOUR_S = 3600.0


def prefill(*, bootstrap: int = 0, inflight: int = 0, **numbers: Any) -> Rank:
    handed = {"prefill_bootstrap_queue_reqs": bootstrap, "prefill_inflight_queue_reqs": inflight}
    return Rank(0.0, True, handed=handed, **{"room_tokens": 100_000, **numbers})


def decode(*, prealloc: int = 0, transfer: int = 0, **numbers: Any) -> Rank:
    handed = {"decode_prealloc_queue_reqs": prealloc, "decode_transfer_queue_reqs": transfer}
    return Rank(0.0, handed=handed, **numbers)


class Cluster:
    """A live cluster of one prefill and one decode; `done` requests have left its workers."""

    def __init__(self) -> None:
        self.plan = PLAN
        self.ended: list[tuple[str, str]] = []
        self.told: list[str] = []
        self.done: float | None = 7.0
        self.asked = 0
        self.fleet = SimpleNamespace(is_healthy=lambda own: True, end=self._end)
        self.events = SimpleNamespace(add=lambda name, kind, text, did: self.told.append(text))
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self._metrics))

    def status(self, name: str) -> Any:
        return SimpleNamespace(incarnation=1)

    async def _end(self, worker: Process, why: str, *, at_once: bool) -> None:
        self.ended.append((worker.name, why))

    def _metrics(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.done is None:
            return httpx.Response(503)
        return httpx.Response(200, text=f'{LEFT[2]}{{tp_rank="0"}} {self.done}\nother 5\n')


def stuck_after(
    worker: Process,
    ranks: Iterable[Rank | tuple[Rank, ...]],
    monkeypatch: pytest.MonkeyPatch,
    *,
    cluster: Cluster | None = None,
    every_s: float = EVERY_S,
    frozen: bool = False,
) -> tuple[float, str] | None:
    """Seconds until the worker is ended and why; None when it never is.

    Args:
        ranks: what it tells, a look each.
        frozen: its event loop stands, so that nothing new is told.
    """
    live, now_s = cluster or Cluster(), 0.0
    watch = StuckWorkers(live)  # type: ignore[arg-type]
    monkeypatch.setattr(stuck_module, "time", SimpleNamespace(monotonic=lambda: now_s))

    async def run() -> tuple[float, str] | None:
        nonlocal now_s
        for seen in ranks:
            rows = seen if isinstance(seen, tuple) else (seen,)
            told = tuple(row if frozen else replace(row, at_s=now_s) for row in rows)
            await watch.look({worker.name: Load(0, 0, {}, at_s=now_s, ranks=told)})
            if live.ended:
                assert live.told == [live.ended[0][1]]
                return now_s, live.told[0]
            now_s += every_s
        return None

    return asyncio.run(run())


def for_an_hour(rank: Rank) -> Iterator[Rank]:
    return (rank for _ in range(int(HOUR_S / EVERY_S)))


# --- what stands still


def test_a_prefetch_that_never_returns_is_told_and_the_worker_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rank = prefill(waiting=1, uncomputed_tokens=2048, tokens=2048)
    found = stuck_after(PREFILL, for_an_hour(rank), monkeypatch)
    assert found is not None
    assert STORE_S < found[0] < STORE_S + 10
    assert found[1].startswith(
        "nothing is computed and 1 request waits for a prefetch from L3 for 12"
    )


def test_requests_that_come_and_clients_that_leave_do_not_hide_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranks = (
        prefill(bootstrap=at % 2, waiting=1 + at % 3, tokens=1000)
        for at in range(int(HOUR_S / EVERY_S))
    )
    found = stuck_after(PREFILL, ranks, monkeypatch)
    assert found is not None
    assert found[0] < STORE_S + 10
    assert "wait for a prefetch from L3" in found[1]


def test_a_full_l1_and_a_worker_without_l3_are_told_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rank = prefill(waiting=2, tokens=2000, room_tokens=1000)
    found = stuck_after(PREFILL, for_an_hour(rank), monkeypatch)
    assert found is not None
    assert "2 requests wait for a prefetch from L3 or for room in L1" in found[1]
    plain = replace(PREFILL, argv=("serve",))
    live = Cluster()
    live.plan = replace(PLAN, processes=(plain,))
    found = stuck_after(plain, for_an_hour(rank), monkeypatch, cluster=live)
    assert found is not None
    assert "2 requests wait for room in L1" in found[1]


@pytest.mark.parametrize(
    ("worker", "rank", "said"),
    [
        (PREFILL, prefill(bootstrap=1), "1 request waits for decode's side of it"),
        (PREFILL, prefill(inflight=1, waiting=2),
         "1 request waits for its KV to reach decode, 2 requests wait for a place in the batch"),
        (DECODE, decode(prealloc=2, transfer=1),
         "2 requests wait for prefill's side of it, or for room in L1, 1 request waits for its KV"),
        (PREFILL, prefill(uncomputed_tokens=512), "a prompt is half computed"),
    ],
)  # fmt: skip
def test_a_handshake_that_never_returns_is_told_after_sglangs_own_limits(
    worker: Process, rank: Rank, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = stuck_after(worker, for_an_hour(rank), monkeypatch)
    assert found is not None
    assert GIVEN_UP_S + STEP_S < found[0] < PEERS_S + 10
    assert found[1].startswith(f"nothing is computed and {said} for ")


def test_a_queue_that_only_grows_does_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = (prefill(bootstrap=1 + at) for at in range(int(HOUR_S / EVERY_S)))
    found = stuck_after(PREFILL, ranks, monkeypatch)
    assert found is not None
    assert found[0] < PEERS_S + 10


@pytest.mark.parametrize("rank", [prefill(waiting=1), decode(running=1), prefill(bootstrap=1)])
def test_an_event_loop_that_stands_is_stuck_after_a_minute(
    rank: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = PREFILL if rank.prefills else DECODE
    found = stuck_after(worker, for_an_hour(rank), monkeypatch, frozen=True)
    assert found is not None
    assert STEP_S < found[0] < STEP_S + 10
    assert found[1].startswith("has requests and made no step for 6")


def test_a_rank_that_stands_still_is_seen_beside_one_that_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranks = (
        (prefill(waiting=1, computed_tokens=at), prefill(waiting=1))
        for at in range(int(HOUR_S / EVERY_S))
    )
    assert stuck_after(PREFILL, ranks, monkeypatch) is not None


# --- what only takes long


@pytest.mark.parametrize("every_s", [EVERY_S, STEP_S - 1])
def test_long_decodes_and_long_prompts_in_chunks_make_progress(
    every_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = for_an_hour(decode(running=1, tokens=1000))
    assert stuck_after(DECODE, streams, monkeypatch, every_s=every_s) is None
    chunks = (
        prefill(uncomputed_tokens=9_000_000 - 2048 * at, computed_tokens=2048 * at, waiting=3)
        for at in range(int(HOUR_S / EVERY_S))
    )
    assert stuck_after(PREFILL, chunks, monkeypatch, every_s=every_s) is None


def test_a_decode_that_is_full_and_decodes_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = for_an_hour(decode(running=8, prealloc=40, transfer=8, waiting=4))
    assert stuck_after(DECODE, ranks, monkeypatch) is None


def test_a_full_queue_that_moves_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    step_s = GIVEN_UP_S / 2

    def full(at: int) -> int:
        return 1000 - int(at * EVERY_S // step_s) % 2

    looks = range(int(HOUR_S / EVERY_S))
    ranks: Iterator[Rank] = (prefill(inflight=full(at), waiting=20) for at in looks)
    assert stuck_after(PREFILL, ranks, monkeypatch) is None
    ranks = (decode(prealloc=full(at)) for at in looks)
    assert stuck_after(DECODE, ranks, monkeypatch) is None


def test_prompts_that_wait_until_slow_decodes_have_taken_their_kv_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rank = prefill(inflight=4, waiting=9, tokens=100_000)
    looks = int(GIVEN_UP_S / EVERY_S)
    ranks = [*[rank] * looks, *[prefill(inflight=3, waiting=9, tokens=100_000)] * looks]
    assert stuck_after(PREFILL, ranks, monkeypatch) is None


def test_a_request_that_is_given_up_and_sent_again_is_not_taken_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live = Cluster()

    def again_and_again() -> Iterator[Rank]:
        for at in range(int(HOUR_S / EVERY_S)):
            live.done = at * EVERY_S // GIVEN_UP_S
            yield prefill(bootstrap=1)

    assert stuck_after(PREFILL, again_and_again(), monkeypatch, cluster=live) is None
    assert 0 < live.asked < 40


def test_a_worker_that_does_not_tell_who_left_is_not_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live = Cluster()
    live.done = None
    ranks = for_an_hour(prefill(bootstrap=1))
    assert stuck_after(PREFILL, ranks, monkeypatch, cluster=live) is None


def test_an_idle_worker_is_never_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    live = Cluster()
    assert stuck_after(PREFILL, for_an_hour(prefill()), monkeypatch, frozen=True) is None
    assert stuck_after(DECODE, for_an_hour(decode()), monkeypatch, cluster=live) is None
    assert live.asked == 0


# --- limits


def test_a_read_may_take_what_its_policy_gives_it() -> None:
    options = '{"prefetch_timeout_base": 300, "prefetch_timeout_per_ki_token": 2}'
    argv = ("--hicache-storage-backend", "mooncake",
            "--hicache-storage-backend-extra-config", options)  # fmt: skip
    worker, own = replace(PREFILL, argv=argv), Still(Wait.OWN, 0.0)
    assert limit_s(own, prefill(tokens=10_240), worker) == STORE_S + 300 + 20
    assert limit_s(own, prefill(tokens=10_240), replace(PREFILL, argv=())) == STORE_S + 3.5


@pytest.mark.parametrize("worker", [PREFILL, DECODE])
def test_peers_are_waited_for_longer_than_sglang_waits(worker: Process) -> None:
    env = {
        **worker.env,
        "SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT": "30",
        "SGLANG_DISAGGREGATION_WAITING_TIMEOUT": "900",
    }
    peers = Still(Wait.PEERS, 0.0)
    assert limit_s(peers, prefill(), replace(worker, env=env)) == 900 + 2 * STEP_S
    assert limit_s(peers, prefill(), replace(worker, env={})) == 300 + 2 * STEP_S
    assert limit_s(peers, prefill(), worker) == PEERS_S
