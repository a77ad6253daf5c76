"""Every kind of process, killed or stopped under a multi-turn load: nobody waits, nothing is wrong.

The quick half runs always; the whole matrix with ``-m soak`` (`make soak`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster_tools import TINY, Shell, cluster, free_port
from tests.dialogues import running_cluster
from tests.kills import SIGNALS, Bench
from tests.outcomes import KINDS

QUICK = {
    ("prefill", "SIGKILL"), ("decode", "SIGKILL"), ("holder", "SIGKILL"), ("gateway", "SIGKILL"),
    ("controller", "SIGKILL"),
}  # fmt: skip
CASES = [
    pytest.param(kind, how, marks=() if (kind, how) in QUICK else pytest.mark.soak)
    for kind in KINDS
    for how in SIGNALS
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Two prefill and two decode workers on a store."""
    shell = Shell(tmp_path_factory.mktemp("home"))
    sets = ["decode.workers=2", f"gateway.port={free_port()}", "watch.reuse_s=0"]
    words = [word for one in sets for word in ("--set", one)]
    with cluster(shell, "topologies/full_offload.yaml", *TINY, *words) as up:
        yield Bench(shell, running_cluster(shell, up["name"]))


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_a_fault_under_load_costs_nobody_an_answer(bench: Bench, kind: str, how: str) -> None:
    outcome = bench.strike(kind, how)
    print(outcome.row())
    assert outcome.broken() == []
