"""Which process runs on which node."""

from __future__ import annotations

from collections import Counter

from pdcache.topology import Topology, parse_topology
from pdcache.topology.facts import Node
from pdcache.topology.placement import Place, place


def topology(text: str = "", device: str = "cpu") -> Topology:
    head = f"name: small\nmode: full_offload\ndevice: {device}\nmodel: {{path: tiny-random}}\n"
    return parse_topology(head + text, source="t.yaml")


def nodes(*gpus: int) -> tuple[Node, ...]:
    return tuple(Node(f"10.0.0.{i}", gpus=count) for i, count in enumerate(gpus))


def where(places: list[Place]) -> dict[str, int]:
    return {spot.name: spot.node for spot in places}


def test_the_order_is_store_then_prefill_then_decode_then_gateway() -> None:
    places = place(topology("prefill: {workers: 2}\nstore: {holders: 2}"), nodes(0))
    assert [spot.name for spot in places] == [
        "store-master", "store-holder-0", "store-holder-1", "prefill-0", "prefill-1", "decode-0",
        "gateway",
    ]  # fmt: skip
    assert [spot.index for spot in places] == [0, 0, 1, 0, 1, 0, 0]


def test_a_given_master_starts_no_store_process() -> None:
    places = place(topology("store: {master: '10.1.1.1:50051'}"), nodes(0))
    assert [spot.name for spot in places] == ["prefill-0", "decode-0", "gateway"]


def test_holders_are_spread_and_master_and_gateway_stay_on_the_first_node() -> None:
    places = where(place(topology("store: {holders: 4}"), nodes(0, 0, 0)))
    assert [places[f"store-holder-{i}"] for i in range(4)] == [0, 1, 2, 0]
    assert places["store-master"] == places["gateway"] == 0


def test_cpu_workers_are_spread_evenly() -> None:
    places = place(topology("prefill: {workers: 3}\ndecode: {workers: 3}"), nodes(0, 0, 0))
    workers = [spot for spot in places if spot.kind in ("prefill", "decode")]
    assert Counter(spot.node for spot in workers) == {0: 2, 1: 2, 2: 2}
    assert {spot.gpus for spot in workers} == {0}


def test_gpu_workers_go_to_the_node_with_the_most_free_gpus() -> None:
    text = "prefill: {workers: 2, tp: 2}\ndecode: {workers: 1, tp: 4}"
    places = place(topology(text, device="cuda"), nodes(2, 8))
    assert {name: node for name, node in where(places).items() if "-" in name and node} == {
        "prefill-0": 1,
        "prefill-1": 1,
        "decode-0": 1,
    }
    assert {spot.name: spot.gpus for spot in places if spot.gpus} == {
        "prefill-0": 2,
        "prefill-1": 2,
        "decode-0": 4,
    }


def test_no_node_is_asked_for_more_gpus_than_it_has_when_all_fit() -> None:
    inventory = nodes(8, 4, 4)
    text = "prefill: {workers: 2, tp: 4}\ndecode: {workers: 2, tp: 4}"
    places = place(topology(text, device="cuda"), inventory)
    used: Counter[int] = Counter()
    for spot in places:
        used[spot.node] += spot.gpus
    assert [used[i] for i in range(3)] == [8, 4, 4]


def test_servers_without_enough_gpus_still_show_in_the_plan() -> None:
    places = place(topology("prefill: {tp: 4}", device="cuda"), nodes(1))
    assert where(places)["prefill-0"] == 0
