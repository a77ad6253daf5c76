"""Plans of more workers than a band has ports: numbers come again, on other nodes only."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from golden.plans import fixed_facts, shipped

from pdcache.checks import budget as budget_module
from pdcache.errors import PlanError
from pdcache.plan import Plan, build_plan
from pdcache.plan.ports import SERVER_BAND, SERVICE_BAND, SPARE, Ports
from pdcache.plan.process import Process
from pdcache.topology import Topology, placement
from pdcache.topology.facts import GIB, Node
from pdcache.topology.schema import Role
from pdcache.topology.setting import Settings

NODES = tuple(Node(f"10.0.0.{i + 1}", memory_bytes=2048 * GIB, cpus=96, gpus=8) for i in range(30))


def plan(*overrides: str, nodes: tuple[Node, ...] = NODES, like: Plan | None = None) -> Plan:
    topology = shipped("full_offload", "device=cuda", "model.path=Qwen/Qwen3-8B", *overrides)
    return build_plan(topology, fixed_facts(nodes), like=like)


def addresses(made: Plan) -> list[tuple[str, int]]:
    """Every listening address of a plan."""
    return [(own.address, port) for own in made.processes for port in own.ports.values()]


def assert_no_two_share_an_address(made: Plan) -> None:
    assert max(Counter(addresses(made)).values()) == 1


def by_name(made: Plan) -> dict[str, Process]:
    return {own.name: own for own in made.processes}


def test_servers_of_one_cluster_have_numbers_of_their_own_while_the_band_lasts() -> None:
    made = plan("prefill.workers=40", "decode.workers=40")
    assert max(Counter(port for _, port in addresses(made)).values()) == 1


def test_more_servers_than_ports_share_numbers_on_different_nodes() -> None:
    made = plan("prefill.workers=120", "decode.workers=120")
    assert_no_two_share_an_address(made)
    assert all(own.ports["http"] in SERVER_BAND for own in made.role(Role.DECODE))


def test_servers_that_span_nodes_meet_on_their_own_node() -> None:
    made = plan(
        "prefill.workers=15", "prefill.nodes=2", "prefill.tp=16", "decode.workers=1",
    )  # fmt: skip
    meetings = [port for owner, port in made.ports.items() if " meets/" in owner]
    assert len(meetings) == 15
    assert_no_two_share_an_address(made)


def test_more_workers_of_a_running_cluster_move_nobodys_port() -> None:
    before = plan("prefill.workers=100", "decode.workers=100")
    after = plan("prefill.workers=115", "decode.workers=120", like=before)
    assert_no_two_share_an_address(after)
    for name, own in by_name(before).items():
        assert by_name(after)[name].ports == own.ports


def test_a_worker_that_moves_to_a_node_where_its_number_is_taken_gets_another() -> None:
    ports = Ports(lambda port: True, before={"a/0": 21000, "b/0": 21000},
                  nodes_before={"a": "one", "b": "two"})  # fmt: skip
    assert ports.of("a", "two").choose(SERVER_BAND) == 21001
    assert ports.of("b", "two").choose(SERVER_BAND) == 21000


def test_the_last_ports_of_a_band_are_left_to_those_of_no_node() -> None:
    ports = Ports(lambda port: True)
    chosen = [ports.of(f"w{i}", f"node{i}").service() for i in range(len(SERVICE_BAND))]
    spare = SERVICE_BAND[-len(SERVICE_BAND) // SPARE :]
    assert not set(chosen) & set(spare)
    assert ports.of("controller").service() == spare[0]


def test_one_node_has_no_more_servers_than_ports() -> None:
    node = replace(NODES[0], gpus=1000)
    full = plan(f"prefill.workers={len(SERVER_BAND) - 1}", nodes=(node,))
    assert_no_two_share_an_address(full)
    with pytest.raises(PlanError, match="no free port between 21000 and 21099"):
        plan(f"prefill.workers={len(SERVER_BAND)}", nodes=(node,))


def test_a_thousand_workers_have_a_plan() -> None:
    nodes = tuple(replace(NODES[0], address=f"10.0.{i // 250}.{i % 250}") for i in range(1000))
    made = plan(
        "prefill.workers=500", "decode.workers=500", "prefill.tp=8", "decode.tp=8",
        "store.holders=null", nodes=nodes,
    )  # fmt: skip
    assert_no_two_share_an_address(made)
    assert len({own.address for own in (*made.role(Role.PREFILL), *made.role(Role.DECODE))}) == 1000


# --- what a plan costs


@pytest.mark.parametrize("nodes", [10, 30])
def test_a_server_finds_its_node_without_a_look_at_each(
    nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pops = 0

    def heappop(heap: list[Any]) -> Any:
        nonlocal pops
        pops += 1
        return heapq.heappop(heap)

    counting = SimpleNamespace(heapify=heapq.heapify, heappush=heapq.heappush, heappop=heappop)
    monkeypatch.setattr(placement, "heapq", counting)
    topology = shipped("full_offload", "device=cuda", "prefill.workers=60", "decode.workers=20")
    placement.place(topology, NODES[:nodes])
    assert pops == 80


@pytest.mark.parametrize("workers", [2, 100])
def test_the_memory_of_a_role_is_worked_out_once_however_many_servers(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Counter[str]()
    settings = budget_module.role_settings

    def role_settings(topology: Topology, role: Role) -> Settings:
        asked[role] += 1
        return settings(topology, role)

    monkeypatch.setattr(budget_module, "role_settings", role_settings)
    topology = shipped("full_offload", "device=cuda", f"prefill.workers={workers}")
    budget_module.budget(topology, fixed_facts(NODES))
    assert asked == {Role.PREFILL: 1, Role.DECODE: 1}
