"""The proof's verdicts against a stub cluster with and without faults."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fake_cluster import FakeCluster
from golden.plans import fixed_facts, golden_plan, shipped

from pdcache.errors import ProofError
from pdcache.plan import Plan, build_plan
from pdcache.proof import Canary, Proof, bench, prove
from pdcache.proof.causes import probable_causes
from pdcache.proof.table import proof_table
from pdcache.sglang.page_keys import page_hashes
from pdcache.store.backend import StoreAccess
from pdcache.store.presence import wait_present
from pdcache.topology import Role

Prove = Callable[[FakeCluster], Proof]


@pytest.fixture
def proof_of(monkeypatch: pytest.MonkeyPatch) -> Prove:
    """Prove a stub cluster; pages that are missing are not waited for."""

    def run(cluster: FakeCluster) -> Proof:
        client = functools.partial(httpx.AsyncClient, transport=httpx.MockTransport(cluster))
        monkeypatch.setattr(httpx, "AsyncClient", client)
        monkeypatch.setattr(bench, "wait_present", _wait_not)
        proof = prove(cluster.plan)
        monkeypatch.undo()
        return proof

    return run


async def _wait_not(
    client: httpx.AsyncClient, store: StoreAccess, keys: list[str], *, limit_s: float, ranks: int
) -> set[str]:
    return await wait_present(client, store, keys, limit_s=0, ranks=ranks)


def full(*overrides: str) -> FakeCluster:
    return FakeCluster(build_plan(shipped("full_offload", *overrides), fixed_facts()))


def failed(proof: Proof) -> list[str]:
    return [canary.name for canary in proof.canaries if not canary.proved]


def unasked(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """A cluster whose store tells nobody which pages it holds; its pauses are short."""
    monkeypatch.setattr(bench, "PAUSES_S", PAUSES_S)
    return full("store={backend: simm, manager: '10.9.9.9:30001'}")


PAUSES_S = (0.0, 0.001, 0.002)
BOTH_MODES = ["same prompt after a flush"] + ["same prompt on another prefill"] * 2
ANSWERS = ["short answer on a hot prompt", "prompt and answer after a flush"]


def test_a_sound_full_offload_cluster_is_proved_on_every_hop(proof_of: Prove) -> None:
    proof = proof_of(full())
    assert [canary.name for canary in proof.canaries] == BOTH_MODES + ANSWERS
    assert proof.proved
    assert proof.reasons() == []
    for canary in proof.canaries:
        assert canary.tokens_equal
        assert canary.causes == ()
        assert canary.cached_tokens["storage"] == canary.expected_storage_tokens > 0
    assert [canary.hop for canary in proof.canaries[1:]] == [
        "prefill-0 -> L3 -> prefill-1",
        "prefill-1 -> L3 -> prefill-0",
        "decode-0 -> L3 -> prefill-0",
        "decode-0 -> L3 -> prefill-1",
    ]


def test_a_sound_prefill_only_cluster_is_proved_without_the_answers(proof_of: Prove) -> None:
    proof = proof_of(FakeCluster(golden_plan("prefill_only")))
    assert [canary.name for canary in proof.canaries] == BOTH_MODES
    assert proof.proved


def test_every_decode_must_have_its_answers_found(proof_of: Prove) -> None:
    proof = proof_of(full("decode.workers=2"))
    hops = [canary.hop for canary in proof.canaries if canary.name in ANSWERS]
    assert [hop.partition(" ")[0] for hop in hops] == [
        "decode-0",
        "decode-0",
        "decode-1",
        "decode-1",
    ]
    assert proof.proved


def test_one_prefill_has_no_other_to_read_from(proof_of: Prove) -> None:
    proof = proof_of(full("prefill.workers=1"))
    assert [canary.name for canary in proof.canaries] == ["same prompt after a flush", *ANSWERS]
    assert proof.proved


def test_the_short_answer_is_what_only_decode_could_have_written(proof_of: Prove) -> None:
    proof = proof_of(full())
    (short,) = [c for c in proof.canaries if c.name == "short answer on a hot prompt"]
    assert short.cached_tokens == {"device": 64, "host": 0, "storage": 64}


def test_a_threshold_beyond_the_answer_is_found_with_its_cause(proof_of: Prove) -> None:
    cluster = full()
    cluster.prefetch_threshold = 100
    proof = proof_of(cluster)
    assert not proof.proved
    assert failed(proof) == ["short answer on a hot prompt"]
    (canary,) = [canary for canary in proof.canaries if not canary.proved]
    assert canary.cached_tokens["storage"] == 0
    assert canary.expected_storage_tokens == 64
    assert "0 of 64 expected tokens read from L3" in canary.evidence
    assert "prefetch_threshold" in canary.causes[0]
    (reason,) = proof.reasons()
    assert reason.startswith("short answer on a hot prompt (decode-0 -> L3 -> prefill-0): ")


def test_a_decode_that_offloads_nothing_is_found(proof_of: Prove) -> None:
    cluster = full()
    cluster.decode_writes = False
    proof = proof_of(cluster)
    assert failed(proof) == ANSWERS
    for canary in proof.canaries:
        if not canary.proved:
            assert "1 pages never reached L3" in canary.evidence
            assert "decode-0 writes in another namespace" in canary.causes[0]


def test_a_prefill_that_writes_nothing_is_found(proof_of: Prove) -> None:
    cluster = FakeCluster(golden_plan("prefill_only"))
    cluster.prefill_writes = False
    proof = proof_of(cluster)
    assert failed(proof) == BOTH_MODES
    assert all("2 pages never reached L3" in canary.evidence for canary in proof.canaries)


class AnswersOnly(FakeCluster):
    """Only the pages of answers reach L3: their chain has no beginning there."""

    def _write(self, prefill: str, prompt: list[int], answer: list[int], salt: str | None) -> None:
        before = set(self.l3)
        super()._write(prefill, prompt, answer, salt)
        self.l3 -= set(page_hashes(prompt, self.page, cache_salt=salt)) - before


def test_a_hit_on_a_hot_prompt_does_not_hide_that_its_pages_are_not_in_l3(proof_of: Prove) -> None:
    proof = proof_of(AnswersOnly(golden_plan("full_offload")))
    (short,) = [c for c in proof.canaries if c.name == "short answer on a hot prompt"]
    assert short.cached_tokens["storage"] == short.expected_storage_tokens
    assert not short.proved
    assert "1 pages never reached L3" in short.evidence


def test_kv_that_gives_other_tokens_is_found_however_many_were_read(proof_of: Prove) -> None:
    cluster = full()
    cluster.spoil = lambda answer: [*answer[:3], *(token + 1 for token in answer[3:])]
    proof = proof_of(cluster)
    assert failed(proof) == BOTH_MODES + ANSWERS
    for canary in proof.canaries:
        assert canary.cached_tokens["storage"] == canary.expected_storage_tokens
        assert not canary.tokens_equal
        assert "tokens differ from position 3 on" in canary.evidence
        assert "different byte orders" in canary.causes[0]


@pytest.mark.parametrize(
    ("dtype", "gap", "proved", "said"),
    [
        ("bfloat16", 0.01, True, "tokens equal up to a near-tie at 5 (logprob gap 0.01)"),
        ("bfloat16", 0.5, False, "tokens differ from position 5 on (logprob gap 0.5)"),
        ("float32", 0.0001, True, "tokens equal up to a near-tie at 5 (logprob gap 0.0001)"),
        ("float32", 0.01, False, "tokens differ from position 5 on (logprob gap 0.01)"),
    ],
)
def test_only_a_near_tie_of_the_dtype_may_differ(
    proof_of: Prove, dtype: str, gap: float, proved: bool, said: str
) -> None:
    cluster = full(f"model.dtype={dtype}")
    cluster.spoil = lambda answer: [*answer[:5], *(token + 1 for token in answer[5:])]
    cluster.top2_gap = gap
    proof = proof_of(cluster)
    assert proof.proved is proved
    assert all(said in canary.evidence for canary in proof.canaries)


def test_a_cache_that_ignores_the_salt_leaves_nothing_to_compare_with(proof_of: Prove) -> None:
    cluster = full()
    cluster.salt_is_ignored = True
    with pytest.raises(ProofError, match="under a new cache salt still hit 128 tokens"):
        proof_of(cluster)


@pytest.mark.parametrize("name", ["decode-0", "prefill-1", "gateway"])
def test_a_hop_that_does_not_answer_is_named(proof_of: Prove, name: str) -> None:
    cluster = full("timeouts.proof_s=0.5")
    cluster.down = cluster.plan.process(name).url
    with pytest.raises(ProofError) as caught:
        proof_of(cluster)
    assert caught.value.where == name
    assert "canary " in str(caught.value)


def test_a_store_that_does_not_answer_is_named(proof_of: Prove) -> None:
    cluster = full()
    (cluster.down,) = cluster.plan.store.urls
    with pytest.raises(ProofError, match="did not answer a key query") as caught:
        proof_of(cluster)
    assert str(cluster.down) in str(caught.value)
    assert caught.value.where == cluster.plan.store.where


def test_each_canary_is_told_as_soon_as_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = full()
    client = functools.partial(httpx.AsyncClient, transport=httpx.MockTransport(cluster))
    monkeypatch.setattr(httpx, "AsyncClient", client)
    told: list[Canary] = []
    proof = prove(cluster.plan, on_canary=told.append)
    assert tuple(told) == proof.canaries


def a_canary(proved: bool = True, storage: int = 64) -> Canary:
    return Canary(
        name="n", hop="a -> L3 -> b", proved=proved, expected_storage_tokens=64,
        cached_tokens={"device": 1, "host": 2, "storage": storage}, tokens_equal=proved,
        evidence="seen",
    )  # fmt: skip


def test_no_canary_is_no_proof() -> None:
    assert not Proof().proved
    assert Proof((a_canary(),)).proved
    assert not Proof((a_canary(), a_canary(proved=False))).proved


def test_a_proof_as_json_has_the_keys_that_programs_rely_on() -> None:
    data = json.loads(json.dumps(Proof((a_canary(),)).as_json()))
    assert data.keys() >= {"proved", "canaries"}
    assert data["canaries"][0].keys() >= {
        "name", "proved", "cached_tokens", "expected_storage_tokens", "tokens_equal", "evidence",
    }  # fmt: skip
    assert set(data["canaries"][0]["cached_tokens"]) == {"device", "host", "storage"}


def test_a_proof_as_a_table_has_a_row_a_canary() -> None:
    table = proof_table(Proof((a_canary(), a_canary(proved=False))))
    assert table.row_count == 2
    assert "DIFFER" in "".join(str(cell) for cell in table.columns[3].cells)


@pytest.mark.parametrize(
    ("missing", "storage", "equal", "first"),
    [
        (1, 0, True, "w writes in another namespace"),
        (0, 0, True, "prefetch_threshold"),
        (0, 64, False, "the workers store pages in different byte orders"),
        (1, 0, False, "the workers store pages in different byte orders"),
    ],
)
def test_the_likeliest_cause_stands_first(
    missing: int, storage: int, equal: bool, first: str
) -> None:
    assert probable_causes(missing, storage, 64, equal, "w -> L3 -> r")[0].startswith(first)


def test_a_reader_is_named_where_it_is_at_fault() -> None:
    causes = probable_causes(0, 0, 64, True, "w -> L3 -> r")
    assert any(cause.startswith("r gave up reading") for cause in causes)


def test_prompts_are_new_every_time_and_of_whole_tokens() -> None:
    plan: Plan = golden_plan("full_offload")
    work = bench.Bench(plan, httpx.AsyncClient())
    assert len(work.prompt(2.5)) == 160
    assert work.prompt(1) != work.prompt(1)
    assert set(work.prompt(4)) <= set(range(bench.LOW_ID, bench.HIGH_ID))


@pytest.mark.parametrize(
    ("length", "known", "expected"), [(160, 160, 128), (128, 128, 64), (200, 70, 64), (65, 0, 0)]
)
def test_what_is_reusable_is_whole_pages_and_never_the_last_token(
    length: int, known: int, expected: int
) -> None:
    work = bench.Bench(golden_plan("full_offload"), httpx.AsyncClient())
    assert work.reusable([1] * length, known) == expected


class Slow(FakeCluster):
    """Pages can be read back only after a pause of the given length."""

    def __init__(self, plan: Plan, needed_s: float) -> None:
        super().__init__(plan)
        self.needed_s = needed_s
        self.paused: list[float] = []

    async def sleep(self, delay: float) -> None:
        self.paused.append(delay)

    def _match(self, prefill: str, hashes: list[str], length: int) -> tuple[int, int]:
        hot, storage = super()._match(prefill, hashes, length)
        late = not self.paused or self.paused[-1] < self.needed_s
        return hot, 0 if late else storage


def slow(monkeypatch: pytest.MonkeyPatch, needed_s: float) -> Slow:
    """A slow cluster whose store cannot be asked; its pauses are noted and not waited for."""
    cluster = Slow(unasked(monkeypatch).plan, needed_s)
    monkeypatch.setattr(bench.asyncio, "sleep", cluster.sleep)
    return cluster


def sent(monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster) -> Proof:
    """The proof of a stub cluster."""
    client = functools.partial(httpx.AsyncClient, transport=httpx.MockTransport(cluster))
    monkeypatch.setattr(httpx, "AsyncClient", client)
    return prove(cluster.plan)


def test_a_store_that_cannot_be_asked_is_proved_by_what_is_read_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proof = sent(monkeypatch, unasked(monkeypatch))
    assert proof.proved
    assert [canary.name for canary in proof.canaries] == BOTH_MODES + ANSWERS
    for canary in proof.canaries:
        assert "the store cannot be asked for pages" in canary.evidence
        assert canary.cached_tokens["storage"] == canary.expected_storage_tokens > 0


def test_pages_that_take_their_time_get_more_of_it_in_every_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = slow(monkeypatch, needed_s=PAUSES_S[1])
    proof = sent(monkeypatch, cluster)
    assert proof.proved
    assert cluster.paused == [*PAUSES_S[:2]] * len(proof.canaries)


def test_after_the_longest_pause_the_hop_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = slow(monkeypatch, needed_s=PAUSES_S[-1] * 2)
    proof = sent(monkeypatch, cluster)
    assert failed(proof) == BOTH_MODES + ANSWERS
    assert cluster.paused == [*PAUSES_S] * len(proof.canaries)
    for canary in proof.canaries:
        assert "the store cannot be asked for pages; 0 of" in canary.evidence
        assert canary.causes


def test_the_pauses_grow() -> None:
    assert list(bench.PAUSES_S) == sorted(set(bench.PAUSES_S))


class Counting(FakeCluster):
    """Counts the answers it gives."""

    answers = 0

    def _generate(self, body: dict[str, Any], prefill: str) -> httpx.Response:
        self.answers += 1
        return super()._generate(body, prefill)


def test_a_store_that_can_be_asked_gets_one_attempt(proof_of: Prove) -> None:
    cluster = Counting(golden_plan("full_offload"))
    cluster.prefetch_threshold = 100
    proof = proof_of(cluster)
    assert failed(proof) == ["short answer on a hot prompt"]
    # Each canary sends two requests, and a third to compare.
    assert cluster.answers == 3 * len(proof.canaries)


def test_a_page_on_3fs_is_asked_of_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    made = golden_plan("full_offload")
    formats = {role: replace(shape, key_ranks=3) for role, shape in made.formats.items()}
    asked: list[int] = []

    async def note(*args: object, ranks: int, **more: object) -> set[str]:
        asked.append(ranks)
        return set()

    monkeypatch.setattr(bench, "wait_present", note)
    work = bench.Bench(replace(made, formats=formats), httpx.AsyncClient())
    assert asyncio.run(work.wait_written([1] * 64, Role.PREFILL)) == 0
    assert asked == [3]
