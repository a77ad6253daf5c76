"""The audit's verdicts against a stub cluster, and what it never shows."""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
import yaml
from fake_cluster import FakeCluster
from golden.plans import fixed_facts, shipped

from pdcache.cli import verify
from pdcache.cli.main import main
from pdcache.cluster import client as cluster_client
from pdcache.cluster.states import ProcessState, ProcessStatus
from pdcache.errors import ProofError
from pdcache.plan import build_plan
from pdcache.proof import audit as the_audit
from pdcache.proof.audit import Audit, audit, dialogues, pick, publishers
from pdcache.sglang.keys import Keys
from pdcache.sglang.kv_events import Blocks, Publisher
from pdcache.sglang.page_keys import page_hashes
from pdcache.topology import Role

KEYS = Keys("admin")
EVENTS = ("prefill.kv_events={port: 5600, replay_port: 5700}",)
EVERYBODY = ("prefill-0", "prefill-1", "decode-0")
SECRET = 777_777
"""A token of a user that no result may show."""

PROMPT = tuple([SECRET] * 192)
"""Three pages of the shipped topology."""

Auditing = Callable[..., Audit]


def fake(*overrides: str, holds: Sequence[tuple[int, ...]] = (PROMPT,)) -> FakeCluster:
    """A cluster whose store has the pages of some prompts."""
    made = FakeCluster(build_plan(shipped("full_offload", *EVENTS, *overrides), fixed_facts()))
    made.l3 |= {digest for prompt in holds for digest in page_hashes(prompt, made.page)}
    return made


@pytest.fixture
def audit_of(monkeypatch: pytest.MonkeyPatch) -> Auditing:
    """Audit a stub cluster."""

    def run(
        cluster: FakeCluster, *prompts: tuple[int, ...], healthy: Sequence[str] = EVERYBODY,
        told: list[Any] | None = None,
    ) -> Audit:  # fmt: skip
        reach(monkeypatch, cluster)
        say = told.append if told is not None else lambda each: None
        return audit(cluster.plan, KEYS, healthy, prompts or (PROMPT,), on_sample=say)

    return run


def reach(monkeypatch: pytest.MonkeyPatch, cluster: Callable[[httpx.Request], Any]) -> None:
    """Let every request of an HTTP client reach the stub."""
    client = functools.partial(httpx.AsyncClient, transport=httpx.MockTransport(cluster))
    monkeypatch.setattr(the_audit.httpx, "AsyncClient", client)


def spoiled(answer: list[int]) -> list[int]:
    return [answer[0], answer[1] + 1, *answer[2:]]


def test_a_sound_cluster_is_audited_with_reuse_on_healthy_workers(audit_of: Auditing) -> None:
    told: list[Any] = []
    result = audit_of(fake(), PROMPT, PROMPT, healthy=("prefill-1", "decode-0"), told=told)
    assert result.audited
    assert result.wrong() == []
    assert told == list(result.samples)
    first, second = result.samples
    assert (first.prefill, first.decode) == ("prefill-1", "decode-0")
    # A page is left to question and answer; what the first sample wrote is in L1 for the second.
    assert first.prompt_tokens == 128 + the_audit.QUESTION_TOKENS
    assert first.cached_tokens == {"device": 0, "host": 0, "storage": 128}
    assert second.cached_tokens == {"device": 128, "host": 0, "storage": 0}
    assert first.tokens_equal
    assert first.evidence == "tokens equal"


def test_other_tokens_with_reuse_are_wrong(audit_of: Auditing) -> None:
    cluster = fake()
    cluster.spoil = spoiled
    result = audit_of(cluster, PROMPT, PROMPT)
    assert not result.audited
    assert [sample.tokens_equal for sample in result.samples] == [False, False]
    assert {sample.evidence for sample in result.samples} == {
        "tokens differ from position 1 on (logprob gap 1)"
    }
    for text in result.wrong():
        assert re.match(r"audit: prefill-[01] -> decode-0: 136 prompt tokens, \d+/0/\d+ from", text)


def test_one_wrong_sample_is_enough(audit_of: Auditing) -> None:
    cluster, answers = fake(), itertools.count(1)
    cluster.spoil = lambda answer: spoiled(answer) if next(answers) == 2 else answer
    result = audit_of(cluster, *[PROMPT] * 3)
    assert [sample.tokens_equal for sample in result.samples] == [True, False, True]
    assert not result.audited
    assert len(result.wrong()) == 1


def test_a_near_tie_in_sixteen_bits_is_equal(audit_of: Auditing) -> None:
    cluster = fake("model.dtype=bfloat16")
    cluster.spoil, cluster.top2_gap = spoiled, 0.01
    result = audit_of(cluster)
    assert result.audited
    assert "near-tie at 1" in result.samples[0].evidence
    cluster.top2_gap = 1.0
    result = audit_of(cluster)
    assert not result.audited
    assert result.samples[0].evidence == "tokens differ from position 1 on (logprob gap 1)"


def test_without_reuse_nothing_is_compared_and_nothing_is_audited(audit_of: Auditing) -> None:
    result = audit_of(fake(holds=[]))
    assert result.samples[0].tokens_equal is None
    assert result.wrong() == []
    assert not result.audited


def test_a_worker_that_fails_costs_its_samples_only(audit_of: Auditing) -> None:
    cluster = fake("decode.workers=2")
    cluster.down = cluster.plan.process("decode-1").url
    told: list[Any] = []
    result = audit_of(cluster, *[PROMPT] * 20, healthy=(*EVERYBODY, "decode-1"), told=told)
    assert len(told) == 20 == len(result.samples) + len(result.unanswered)
    assert set(result.unanswered) == {"decode-1: answered HTTP 500"}
    assert {sample.decode for sample in result.samples} == {"decode-0"}
    assert result.audited


def test_without_any_answer_the_audit_fails(audit_of: Auditing) -> None:
    cluster = fake()
    cluster.down = cluster.plan.process("decode-0").url
    with pytest.raises(ProofError, match="none of 2 samples was answered: decode-0: answered HTTP"):
        audit_of(cluster, PROMPT, PROMPT)


def test_a_salt_that_is_ignored_gives_no_verdict(audit_of: Auditing) -> None:
    cluster = fake()
    cluster.salt_is_ignored = True
    with pytest.raises(ProofError, match="under a new cache salt still hit"):
        audit_of(cluster)


def test_without_a_healthy_pair_nothing_is_asked(audit_of: Auditing) -> None:
    with pytest.raises(ProofError, match="a healthy prefill and a healthy decode are needed"):
        audit_of(fake(), healthy=("prefill-0",))


def test_a_worker_that_quotes_the_request_is_not_quoted(
    audit_of: Auditing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quotes(request: httpx.Request) -> httpx.Response:
        return httpx.Response(422, text=f"bad input: {request.content.decode()}")

    plan = fake().plan
    with pytest.raises(ProofError) as failed:
        reach(monkeypatch, quotes)
        audit(plan, KEYS, EVERYBODY, [PROMPT])
    assert str(SECRET) not in repr(failed.value) + str(failed.value)


@pytest.mark.parametrize(("pages", "left"), [(1, 1), (2, 1), (3, 2), (40, 39)])
def test_a_prompt_leaves_room_for_question_and_answer(
    audit_of: Auditing, pages: int, left: int
) -> None:
    long = PROMPT[:64] * pages
    result = audit_of(fake(holds=[long]), long)
    assert result.samples[0].prompt_tokens == left * 64 + the_audit.QUESTION_TOKENS
    assert result.samples[0].cached_tokens["storage"] == left * 64


def test_a_dialogue_is_picked_once_and_the_longer_the_likelier() -> None:
    chains = [(1,) * 8, (2,) * 80, (3,) * 8]
    source = random.Random(7)
    assert sorted(pick(chains, 5, source)) == sorted(chains)
    first = Counter(pick(chains, 1, source)[0][0] for _ in range(2000))
    assert 0.78 < first[2] / 2000 < 0.88  # 80 of 96 tokens
    assert min(first[1], first[3]) > 100


def test_every_data_parallel_rank_publishes_on_ports_of_its_own() -> None:
    plan = build_plan(shipped("full_offload", *EVENTS, "prefill.dp=2"), fixed_facts())
    found = publishers(plan.role(Role.PREFILL))
    assert [(own.worker, own.port, own.replay_port) for own in found] == [
        ("prefill-0", 5600, 5700), ("prefill-0", 5601, 5701),
        ("prefill-1", 5602, 5702), ("prefill-1", 5603, 5703),
    ]  # fmt: skip


def hears(
    monkeypatch: pytest.MonkeyPatch, prompts: Sequence[tuple[int, ...]],
    *, first: int = 0, unread: int = 0,
) -> None:  # fmt: skip
    """Let the audit hear of these prompts from a page on, as if prefill workers had told."""

    def told(
        publishers: Sequence[Publisher], blocks: Blocks, seconds: float,
        *, on_progress: Callable[[float], None],
    ) -> None:  # fmt: skip
        for prompt in prompts:
            hashes = page_hashes(prompt, blocks.page_size)
            names = [int.from_bytes(bytes.fromhex(own)[:8], "big", signed=True) for own in hashes]
            event = {
                "type": "BlockStored", "block_hashes": names[first:],
                "parent_block_hash": names[first - 1] if first else None,
                "token_ids": prompt[first * blocks.page_size :], "block_size": blocks.page_size,
            }  # fmt: skip
            blocks.take([b"", bytes(8), msgspec.msgpack.encode([0.0, [event], 0])])
        blocks.unread += unread
        on_progress(seconds)

    monkeypatch.setattr(the_audit, "listen", told)
    monkeypatch.setattr(Publisher, "answers", lambda self: True)


def test_dialogues_are_the_prompts_that_were_told(monkeypatch: pytest.MonkeyPatch) -> None:
    hears(monkeypatch, [PROMPT])
    progress: list[tuple[float, int]] = []
    told = dialogues(fake().plan, 3, on_progress=lambda *each: progress.append(each))
    assert told == [PROMPT]
    assert progress == [(3, 3)]


def test_without_kv_events_the_yaml_to_add_is_told() -> None:
    plan = build_plan(shipped("full_offload"), fixed_facts())
    with pytest.raises(ProofError) as failed:
        dialogues(plan, 1)
    assert failed.value.where == "prefill.kv_events"
    added = failed.value.remedy.partition("\n")[2]
    events = json.dumps(yaml.safe_load(added)["prefill"]["kv_events"])
    made = build_plan(shipped("full_offload", f"prefill.kv_events={events}"), fixed_facts())
    assert [own.replay_port for own in publishers(made.role(Role.PREFILL))] == [5657, 5658]


def test_ports_that_nobody_answers_on_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Publisher, "answers", lambda self: False)
    with pytest.raises(ProofError, match="prefill-0, prefill-1: nobody accepts connections"):
        dialogues(fake().plan, 1)


@pytest.mark.parametrize(
    ("prompts", "more", "message"),
    [
        ([], {}, r"no page was stored within 2 s: there was no traffic .* --seconds 6"),
        ([], {"unread": 5}, "5 KV events came in 2 s, in a form that pdcache cannot read"),
        ([PROMPT], {"first": 1}, "2 pages were stored within 2 s, but of no dialogue"),
    ],
    ids=["silence", "unreadable", "no beginning"],
)
def test_when_there_is_nothing_to_sample_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, prompts: list[tuple[int, ...]], more: dict[str, int],
    message: str,
) -> None:  # fmt: skip
    hears(monkeypatch, prompts, **more)
    with pytest.raises(ProofError, match=message):
        dialogues(fake().plan, 2)


class StubClient:
    """A cluster's controller, as far as `verify --audit` asks it."""

    def __init__(self, plan: Any) -> None:
        self._plan = plan
        self.marked: list[tuple[bool, list[str]]] = []

    def plan(self) -> Any:
        return self._plan

    def keys(self) -> Keys:
        return KEYS

    def status(self) -> Any:
        names = {own.name: own.role.value for own in self._plan.processes}
        states = [
            ProcessStatus(name, role, None, state=ProcessState.HEALTHY)
            for name, role in names.items()
        ]
        next(own for own in states if own.name == "prefill-1").held = "draining"
        return SimpleNamespace(workers=states)

    def mark_proved(self, proved: bool, reasons: list[str]) -> None:
        self.marked.append((proved, reasons))

    def close(self) -> None:
        """Nothing to leave."""


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str, StubClient]]:
    """``pdcache verify --audit`` on a stub cluster; no token of a user may show."""

    def run(cluster: FakeCluster, *words: str) -> tuple[int, str, str, StubClient]:
        client = StubClient(cluster.plan)
        reach(monkeypatch, cluster)
        hears(monkeypatch, [PROMPT])
        monkeypatch.setattr(cluster_client, "ClusterClient", lambda record: client)
        monkeypatch.setattr(verify, "the_record", lambda name: None)
        monkeypatch.setattr(sys, "argv", ["pdcache", "verify", "full-offload", "--audit", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert str(SECRET) not in out + err
        return int(ended.value.code or 0), out, err, client

    return run


def test_the_command_prints_the_audit_and_leaves_the_cluster_alone(
    command: Callable[..., Any],
) -> None:
    code, out, err, client = command(fake(), "--json", "--seconds", "2")
    told = json.loads(out)
    assert (code, client.marked) == (0, [])
    assert (told["schema"], told["audited"], told["unanswered"]) == (1, True, [])
    (sample,) = told["samples"]
    assert sample["prefill"] == "prefill-0"  # the other one is kept out of the gateway
    assert sample["prompt_tokens"] == 136
    assert sample["cached_tokens"] == {"device": 0, "host": 0, "storage": 128}
    assert sample["tokens_equal"] is True
    assert "listening to KV events for 2 s" in err
    assert "1 dialogues were heard; 1 are asked again" in err


def test_a_wrong_sample_degrades_the_cluster(command: Callable[..., Any]) -> None:
    cluster = fake()
    cluster.spoil = spoiled
    code, out, err, client = command(cluster)
    assert code == 1
    assert "DIFFERS" in out
    ((proved, reasons),) = client.marked
    assert not proved
    assert re.match(r"audit: prefill-0 -> decode-0: .* tokens differ from position 1", reasons[0])
    assert reasons[0].removeprefix("audit: ") in err.replace("\n", " ")


def test_no_reuse_at_all_exits_1_and_degrades_nothing(command: Callable[..., Any]) -> None:
    code, out, err, client = command(fake(holds=[]))
    assert (code, client.marked) == (1, [])
    assert "no reuse" in out
    assert "nothing was reused, so nothing is audited" in err


def test_options_of_the_audit_without_it_are_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pdcache", "verify", "--samples", "3"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
