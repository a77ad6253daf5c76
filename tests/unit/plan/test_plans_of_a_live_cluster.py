"""The plan of an edited topology keeps every port and node of the cluster that runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from golden.plans import THREE_GPU_NODES, THREE_NODES, fixed_facts, shipped

from pdcache.errors import PlanError
from pdcache.plan import Plan, build_plan
from pdcache.plan.ports import SERVER_BAND, Ports
from pdcache.plan.process import Process
from pdcache.topology import Topology, parse_topology
from pdcache.topology.facts import Node


def of_the_cluster(plan: Plan) -> Callable[[int], bool]:
    """Free ports of a machine on which a plan runs: not its own."""
    taken = set(plan.ports.values())
    return lambda port: port not in taken


def running(*overrides: str, topology: str = "full_offload") -> Plan:
    return build_plan(shipped(topology, *overrides), fixed_facts())


def edited(before: Plan, *overrides: str, topology: str = "full_offload") -> Plan:
    facts = fixed_facts(port_free=of_the_cluster(before))
    return build_plan(shipped(topology, *overrides), facts, like=before)


def three_nodes(*overrides: str) -> Topology:
    return parse_topology(THREE_NODES, source="three_nodes.yaml", overrides=overrides)


def ports(plan: Plan) -> dict[str, dict[str, int]]:
    return {process.name: process.ports for process in plan.processes}


def where(plan: Plan) -> dict[str, str]:
    return {process.name: process.address for process in plan.processes}


def all_ports(plan: Plan) -> list[int]:
    rows = [port for process in plan.processes for port in process.ports.values()]
    return [*rows, plan.controller_port]


def both(before: Plan, after: Plan) -> list[tuple[Process, Process]]:
    new = {process.name: process for process in after.processes}
    return [(own, new[own.name]) for own in before.processes if own.name in new]


TOPOLOGIES = pytest.mark.parametrize("topology", ["full_offload", "mooncake_ha", "hf3fs_mock"])


@TOPOLOGIES
@pytest.mark.parametrize(
    ("role", "before", "after"),
    [("prefill", 1, 3), ("prefill", 3, 1), ("decode", 1, 2), ("decode", 3, 2), ("prefill", 2, 2)],
)
def test_adding_and_removing_workers_moves_no_port(
    topology: str, role: str, before: int, after: int
) -> None:
    plan = running(f"{role}.workers={before}", topology=topology)
    new = edited(plan, f"{role}.workers={after}", topology=topology)
    assert both(plan, new)
    for old, own in both(plan, new):
        assert own.ports == old.ports
        assert own.argv == old.argv
        assert own.url == old.url
    assert new.controller_port == plan.controller_port
    assert new.store == plan.store
    assert max(Counter(all_ports(new)).values()) == 1


def test_without_the_running_plan_ports_would_move() -> None:
    """The reason for all this: an earlier worker of another role takes the next free port."""
    plan = running()
    fresh = build_plan(shipped("full_offload", "prefill.workers=3"), fixed_facts())
    assert ports(fresh)["decode-0"] != ports(plan)["decode-0"]
    assert ports(edited(plan, "prefill.workers=3"))["decode-0"] == ports(plan)["decode-0"]


def test_a_new_worker_gets_ports_that_nobody_has() -> None:
    plan = running()
    new = edited(plan, "prefill.workers=4", "decode.workers=3")
    added = [own for name, own in ports(new).items() if name not in ports(plan)]
    assert len(added) == 4
    for own in added:
        assert not set(own.values()) & {port for p in plan.processes for port in p.ports.values()}


def test_a_worker_that_comes_back_after_it_was_removed_avoids_what_is_in_use() -> None:
    plan = running("prefill.workers=3")
    less = edited(plan, "prefill.workers=1")
    again = edited(less, "prefill.workers=3")
    assert max(Counter(all_ports(again)).values()) == 1
    assert ports(again)["prefill-0"] == ports(plan)["prefill-0"]


def test_a_given_port_of_the_running_cluster_is_no_port_in_use() -> None:
    given = ("prefill.port=30000", "prefill.bootstrap_port=8998", "store.port=20500")
    plan = running(*given)
    new = edited(plan, *given, "prefill.workers=3")
    assert ports(new)["prefill-1"] == {"http": 30001, "bootstrap": 8999}
    assert ports(new)["prefill-2"] == {"http": 30002, "bootstrap": 9000}
    assert ports(new)["store-master"] == ports(plan)["store-master"]


@pytest.mark.parametrize("taken", [30002, 9000])
def test_a_given_port_of_a_new_worker_that_somebody_else_has_is_refused(taken: int) -> None:
    given = ("prefill.port=30000", "prefill.bootstrap_port=8998")
    plan = running(*given)
    others = {*plan.ports.values(), taken}
    facts = fixed_facts(port_free=lambda port: port not in others)
    with pytest.raises(PlanError, match=f"port {taken} is in use"):
        build_plan(shipped("full_offload", *given, "prefill.workers=3"), facts, like=plan)


def test_a_port_that_is_given_anew_must_not_be_that_of_another_process() -> None:
    plan = running()
    with pytest.raises(PlanError, match=f"port {SERVER_BAND.start} is in use"):
        edited(plan, f"decode.port={SERVER_BAND.start}")


def test_a_port_that_is_no_longer_given_is_chosen_from_the_band() -> None:
    plan = running("decode.port=30000")
    assert ports(edited(plan))["decode-0"]["http"] in SERVER_BAND


def test_a_gateway_that_moves_leaves_all_others_where_they_are() -> None:
    plan = running()
    new = edited(plan, "gateway.port=8001")
    assert ports(new) == {**ports(plan), "gateway": {**ports(plan)["gateway"], "http": 8001}}


def test_metrics_that_a_worker_begins_to_publish_do_not_move_its_other_ports() -> None:
    plan = running()
    new = edited(plan, "prefill.kv_events.port=5600", "prefill.kv_events.replay_port=5700")
    assert ports(new)["prefill-1"] == {
        **ports(plan)["prefill-1"], "kv_events": 5601, "kv_replay": 5701,
    }  # fmt: skip


def test_the_same_topology_makes_the_same_plan() -> None:
    plan = running()
    assert edited(plan) == plan
    assert edited(edited(plan)) == plan


def test_a_worker_that_runs_stays_on_its_node_though_another_is_emptier() -> None:
    plan = build_plan(three_nodes("prefill.workers=5", "decode.workers=1"), CLUSTER)
    less = build_plan(three_nodes("prefill.workers=2", "decode.workers=1"), CLUSTER, like=plan)
    more = build_plan(three_nodes("prefill.workers=2", "decode.workers=2"), CLUSTER, like=less)
    for before, after in ((plan, less), (less, more)):
        for old, own in both(before, after):
            assert (own.address, own.ray_id, own.ports) == (old.address, old.ray_id, old.ports)


CLUSTER = fixed_facts(THREE_GPU_NODES)
NEWCOMER = Node("10.0.0.4", memory_bytes=512 << 30, cpus=96, gpus=8, ray_id="node3")


def test_a_worker_that_is_added_goes_where_there_is_room() -> None:
    plan = build_plan(three_nodes("prefill.workers=3", "decode.workers=2"), CLUSTER)
    more = build_plan(three_nodes("prefill.workers=4", "decode.workers=2"), CLUSTER, like=plan)
    used = Counter(own.address for own in more.processes for _ in range(own.gpus))
    assert max(used.values()) <= 8
    assert where(more)["prefill-3"] not in [a for a, count in used.items() if count > 8]


def test_workers_are_known_by_their_node_though_the_nodes_come_in_another_order() -> None:
    plan = build_plan(three_nodes(), CLUSTER)
    reordered = (THREE_GPU_NODES[0], THREE_GPU_NODES[2], THREE_GPU_NODES[1])
    new = build_plan(three_nodes(), fixed_facts(reordered), like=plan)
    for old, own in both(plan, new):
        if own.role.value in ("prefill", "decode"):
            assert (own.address, own.ports) == (old.address, old.ports)


def test_a_worker_whose_node_is_gone_is_placed_anew() -> None:
    plan = build_plan(three_nodes(), CLUSTER)
    lost = where(plan)["prefill-1"]
    left = tuple(node for node in THREE_GPU_NODES if node.address != lost)
    new = build_plan(three_nodes("store.holders=3"), fixed_facts((*left, NEWCOMER)), like=plan)
    assert where(new)["prefill-1"] != lost
    for old, own in both(plan, new):
        if own.role.value in ("prefill", "decode") and old.address != lost:
            assert own.address == old.address


def test_a_port_book_is_asked_by_owner_and_place() -> None:
    first = Ports(lambda port: True)
    assert [first.of("a").service(), first.of("b").service()] == [20000, 20001]
    second = Ports(lambda port: False, before=first.book)
    assert second.of("b").service() == 20001
    with pytest.raises(PlanError, match="no free port"):
        second.of("c").service()
    assert second.book == {"b/0": 20001}


def test_a_port_of_an_owner_that_is_gone_is_given_to_nobody_before_it_is_down() -> None:
    first = Ports(lambda port: True)
    first.of("a").service()
    second = Ports(lambda port: True, before=first.book)
    assert second.of("b").service() == 20001


def test_a_plan_for_another_cluster_keeps_nothing() -> None:
    other = replace(running(), ports={})
    assert build_plan(shipped("full_offload"), fixed_facts(), like=other) == running()
