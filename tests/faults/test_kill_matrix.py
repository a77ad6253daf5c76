"""Every kind of process, killed or stopped under a multi-turn load: nobody waits, nothing is wrong.

The quick half runs always; the whole matrix with ``-m soak`` (`make soak`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster_tools import TINY, Shell, cluster, free_port
from tests.dialogues import running_cluster
from tests.kills import KINDS, PROCESS, RECOVERY_LIMIT_S, REUSE, SIGNALS, STORE, Bench, Outcome

QUICK = {
    ("prefill", "SIGKILL"), ("decode", "SIGKILL"), ("holder", "SIGKILL"), ("gateway", "SIGKILL"),
    ("controller", "SIGKILL"),
}  # fmt: skip
CASES = [
    pytest.param(kind, how, marks=() if (kind, how) in QUICK else pytest.mark.soak)
    for kind in KINDS
    for how in SIGNALS
]

OUT_LIMIT_S = 2.0
TTFT_ABOVE_LIMIT_S = 2.0
REUSE_BACK_LIMIT_S = 30.0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Two prefill and two decode workers on a store."""
    shell = Shell(tmp_path_factory.mktemp("home"))
    sets = ["decode.workers=2", f"gateway.port={free_port()}", "watch.reuse_s=0"]
    words = [word for one in sets for word in ("--set", one)]
    with cluster(shell, "topologies/full_offload.yaml", *TINY, *words) as up:
        yield Bench(shell, up["name"], running_cluster(shell, up["name"]))


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_a_fault_under_load_costs_nobody_an_answer(bench: Bench, kind: str, how: str) -> None:
    outcome = bench.strike(kind, how)
    print(outcome.row())
    assert outcome.wrong == []
    assert outcome.orphans == []
    assert outcome.busy == {}, "workers hold requests of nobody"
    assert len(outcome.errors) <= errors_at_most(outcome), outcome.errors
    hurt = {PROCESS[kind]} if kind != "controller" else set()
    assert set(outcome.restarted) <= hurt, "only what was hurt may be started again"
    assert outcome.recovered_s is not None
    assert outcome.recovered_s < RECOVERY_LIMIT_S
    if kind in ("prefill", "decode", "prefill's scheduler", "decode's scheduler"):
        assert outcome.out_s is not None
        assert outcome.out_s < OUT_LIMIT_S
    if kind in STORE:
        assert outcome.reasons, "the fault was not told"
        assert outcome.ttft_above_s is not None
        assert outcome.ttft_above_s <= TTFT_ABOVE_LIMIT_S
        assert outcome.reuse_back_s is not None, "running dialogues do not find their pages"
        assert outcome.reuse_back_s <= REUSE_BACK_LIMIT_S
    assert outcome.reuse is not None
    assert outcome.reuse >= REUSE


def errors_at_most(outcome: Outcome) -> int:
    """What was on its way on a decode that is gone: a request of each session.

    The one gateway is away for a second or two, in which three sessions try again and again.
    """
    return {"decode": 3, "decode's scheduler": 3, "gateway": 60}.get(outcome.kind, 0)
