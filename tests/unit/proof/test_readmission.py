"""What a worker has to show before it gets requests again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

import httpx
import pytest
from fake_cluster import FakeCluster
from golden.plans import fixed_facts, shipped

from pdcache.changes.kinds import without_storage
from pdcache.cluster.readmission import prove_again, shared_pages
from pdcache.errors import PdcacheError
from pdcache.plan import Plan, build_plan
from pdcache.plan.process import Process
from pdcache.topology import Role


class Asked(FakeCluster):
    """Counts what each worker was asked, and answers for the store's health."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.asked: Counter[str] = Counter()
        self.store_is_well = True

    def __call__(self, request: httpx.Request) -> httpx.Response:
        base = f"http://{request.url.host}:{request.url.port}"
        if base in self.plan.store.urls and request.url.path == "/health":
            return httpx.Response(200 if self.store_is_well else 503)
        name = next((own.name for own in self.plan.processes if own.url == base), "")
        self.asked[f"{request.url.path} {name}"] += 1
        return super().__call__(request)


class Serving:
    """As much of the live cluster as the proof asks for: its plan, and who serves."""

    def __init__(self, plan: Plan, out: Iterable[str]) -> None:
        self.plan, self._out = plan, set(out)

    def serving(self, role: Role) -> list[Process]:
        return [own for own in self.plan.role(role) if own.name not in self._out]


def plan(*overrides: str, topology: str = "full_offload") -> Plan:
    return build_plan(shipped(topology, *overrides), fixed_facts())


def proved(cluster: Asked, worker: str, *, out: Iterable[str] = ()) -> None:
    """Prove a worker while it and those in ``out`` get no requests."""

    async def go() -> None:
        live = Serving(cluster.plan, {worker, *out})
        async with httpx.AsyncClient(transport=httpx.MockTransport(cluster)) as client:
            await prove_again(live, cluster.plan.process(worker), client)

    asyncio.run(go())


def refusal(cluster: Asked, worker: str) -> PdcacheError:
    with pytest.raises(PdcacheError) as caught:
        proved(cluster, worker)
    assert caught.value.where == worker
    return caught.value


@pytest.mark.parametrize("worker", ["prefill-0", "prefill-1", "decode-0"])
@pytest.mark.parametrize("topology", ["full_offload", "prefill_only"])
def test_a_worker_that_reuses_is_taken_and_nobody_else_is_flushed(
    topology: str, worker: str
) -> None:
    cluster = Asked(plan("decode.workers=2", topology=topology))
    proved(cluster, worker)
    flushed = [own for own in cluster.asked if own.startswith("/flush_cache")]
    assert set(flushed) <= {f"/flush_cache {worker}"}
    assert not any(own.endswith("gateway") for own in cluster.asked)


def test_a_prefill_that_reads_nothing_from_l3_is_kept_out() -> None:
    cluster = Asked(plan())
    cluster.prefetch_threshold = 1 << 30
    assert "did not prove reuse" in str(refusal(cluster, "prefill-0"))


def test_a_worker_that_answers_wrongly_is_kept_out() -> None:
    cluster = Asked(plan())
    cluster.spoil = lambda answer: [0, *answer[1:]]
    refusal(cluster, "prefill-0")


def test_a_worker_that_does_not_answer_is_kept_out() -> None:
    cluster = Asked(plan())
    cluster.down = cluster.plan.process("prefill-0").url
    with pytest.raises(PdcacheError):
        proved(cluster, "prefill-0")


def test_without_the_store_an_answer_is_enough() -> None:
    cluster = Asked(plan())
    cluster.store_is_well, cluster.prefetch_threshold = False, 1 << 30
    proved(cluster, "prefill-0")
    assert {own for own in cluster.asked if "prefill" in own} == {"/generate prefill-0"}


def test_a_worker_that_is_detached_is_not_asked_for_pages_of_l3() -> None:
    cluster = Asked(without_storage(plan()))
    cluster.prefetch_threshold = 1 << 30
    proved(cluster, "prefill-0")


def test_the_only_prefill_proves_itself_with_its_own_pages() -> None:
    cluster = Asked(plan("prefill.workers=1"))
    proved(cluster, "prefill-0")
    assert cluster.asked["/flush_cache prefill-0"] >= 1
    cluster.prefetch_threshold = 1 << 30
    refusal(cluster, "prefill-0")


def test_without_a_worker_of_the_other_role_there_is_nothing_to_prove() -> None:
    cluster = Asked(plan())
    proved(cluster, "prefill-0", out=["decode-0"])
    proved(cluster, "decode-0", out=["prefill-0", "prefill-1"])
    assert not cluster.asked


def test_a_worker_has_to_work_with_every_one_of_the_other_role() -> None:
    cluster = Asked(plan("prefill.workers=3", "decode.workers=3"))
    proved(cluster, "prefill-0")
    assert {f"/generate decode-{i}" for i in range(3)} <= cluster.asked.keys()
    cluster.asked.clear()
    proved(cluster, "decode-2", out=["prefill-1"])
    asked = {own for own in cluster.asked if own.startswith("/generate prefill")}
    assert asked == {"/generate prefill-0", "/generate prefill-2"}


def test_workers_share_pages_whose_options_differ_only_in_how_they_are_read() -> None:
    own = plan().process("prefill-0")
    assert shared_pages(own) == shared_pages(plan().process("decode-0"))
    slow = plan("prefill.hicache.prefetch_threshold=999").process("prefill-0")
    assert shared_pages(slow) == shared_pages(own)
    other = plan("store.namespace=other").process("prefill-0")
    assert shared_pages(other) != shared_pages(own)
