"""Which process runs on which node."""

from __future__ import annotations

from collections import Counter

import pytest

from pdcache.topology import Role, Topology, parse_topology
from pdcache.topology.facts import Node
from pdcache.topology.placement import Place, place, store_places


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
    assert {spot.name: spot.node for spot in places if spot.gpus} == {
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


def spans(places: list[Place]) -> dict[str, tuple[int, int, int]]:
    """Node, rank and GPUs of every part of every server."""
    return {
        spot.name: (spot.node, spot.rank, spot.gpus)
        for spot in places
        if spot.kind in ("prefill", "decode")
    }


def test_the_parts_of_a_server_that_spans_nodes_go_to_different_nodes() -> None:
    text = "prefill: {tp: 16, nodes: 2}\ndecode: {tp: 8}"
    assert spans(place(topology(text, device="cuda"), nodes(8, 8, 8))) == {
        "prefill-0": (0, 0, 8),
        "prefill-0-rank-1": (1, 1, 8),
        "decode-0": (2, 0, 8),
    }


def test_all_parts_of_a_server_have_its_index_and_its_role() -> None:
    text = "prefill: {workers: 2, tp: 4, nodes: 2}\ndecode: {tp: 4, nodes: 2}"
    places = place(topology(text, device="cuda"), nodes(8, 8))
    assert [(spot.name, spot.index) for spot in places if spot.gpus] == [
        ("prefill-0", 0),
        ("prefill-0-rank-1", 0),
        ("prefill-1", 1),
        ("prefill-1-rank-1", 1),
        ("decode-0", 0),
        ("decode-0-rank-1", 0),
    ]
    found = spans(places)
    for server in ("prefill-0", "prefill-1", "decode-0"):
        assert found[server][0] != found[f"{server}-rank-1"][0]


@pytest.mark.parametrize(
    ("sizes", "gpus"),
    [
        ("tp: 16, nodes: 2", 8),
        ("tp: 8, pp: 2, nodes: 2", 8),
        ("tp: 4, pp: 2, dp: 2, nodes: 4", 4),
        ("tp: 8, attn_dp: 8, ep: 8", 8),
        ("tp: 2, dp: 2", 4),
    ],
)
def test_a_node_gives_its_share_of_tp_x_pp_x_dp_gpus(sizes: str, gpus: int) -> None:
    places = place(topology(f"prefill: {{{sizes}}}", device="cuda"), nodes(16, 16, 16, 16))
    assert {spot.gpus for spot in places if spot.kind == "prefill"} == {gpus}


def test_on_cpu_machines_a_server_spans_nodes_too() -> None:
    places = place(topology("prefill: {tp: 2, nodes: 2}"), nodes(0, 0))
    assert spans(places) == {
        "prefill-0": (0, 0, 0),
        "prefill-0-rank-1": (1, 1, 0),
        "decode-0": (0, 0, 0),
    }


def test_a_server_that_spans_more_nodes_than_there_are_still_shows_in_the_plan() -> None:
    found = spans(place(topology("prefill: {tp: 16, nodes: 2}", device="cuda"), nodes(8)))
    assert {found["prefill-0"][0], found["prefill-0-rank-1"][0]} == {0}


def stores(section: str, count: int) -> list[tuple[str, str, int, int]]:
    """Name, kind, index and node of the store's processes on so many nodes."""
    places = store_places(topology(f"store: {section}"), count)
    assert {spot.role for spot in places} <= {Role.STORE}
    return [(spot.name, spot.kind, spot.index, spot.node) for spot in places]


def test_a_store_that_sets_nothing_has_a_holder_on_every_node() -> None:
    assert stores("{}", 3) == [
        ("store-master", "master", 0, 0),
        ("store-holder-0", "holder", 0, 0),
        ("store-holder-1", "holder", 1, 1),
        ("store-holder-2", "holder", 2, 2),
    ]


def test_masters_that_take_over_stand_on_different_nodes_after_their_etcd() -> None:
    assert stores("{ha: {masters: 3}, holders: 1}", 2) == [
        ("store-etcd", "etcd", 0, 0),
        ("store-master-0", "master", 0, 0),
        ("store-master-1", "master", 1, 1),
        ("store-master-2", "master", 2, 0),
        ("store-holder-0", "holder", 0, 0),
    ]


def test_a_given_etcd_takes_no_place() -> None:
    names = [name for name, *_ in stores("{ha: {etcd: '10.9.9.9:2379'}}", 1)]
    assert names == ["store-master-0", "store-master-1", "store-holder-0"]


def test_without_holders_the_workers_alone_give_memory() -> None:
    assert stores("{holders: 0, worker_segment_gb: 1}", 3) == [("store-master", "master", 0, 0)]


def test_3fs_has_a_metadata_server_unless_one_is_given() -> None:
    path = "backend: hf3fs, path: /3fs"
    assert stores(f"{{{path}}}", 3) == [("store-metadata", "metadata", 0, 0)]
    assert stores(f"{{{path}, metadata_server: 'http://h:1'}}", 3) == []


@pytest.mark.parametrize(
    "section", ["{backend: file, path: /nfs}", "{backend: simm, manager: 'h:1'}"]
)
def test_a_folder_or_a_store_that_runs_already_takes_no_place(section: str) -> None:
    assert stores(section, 3) == []


def test_a_pinned_worker_stays_and_the_others_go_around_it() -> None:
    text = "prefill: {workers: 3}\ndecode: {workers: 1}"
    places = where(place(topology(text), nodes(0, 0), {"prefill-0": 1, "prefill-2": 1}))
    assert places["prefill-0"] == places["prefill-2"] == 1
    assert places["prefill-1"] == places["decode-0"] == 0


def test_gpus_of_a_pinned_worker_are_taken_before_any_other_is_placed() -> None:
    text = "prefill: {workers: 2, tp: 4}\ndecode: {workers: 1, tp: 4}"
    places = where(place(topology(text, device="cuda"), nodes(4, 8), {"decode-0": 1}))
    assert places["decode-0"] == 1
    assert sorted([places["prefill-0"], places["prefill-1"]]) == [0, 1]


def test_a_new_part_of_a_pinned_server_goes_to_another_node() -> None:
    text = "prefill: {workers: 1, nodes: 2, tp: 16}\ndecode: {workers: 1}"
    places = where(place(topology(text, device="cuda"), nodes(8, 8, 32), {"prefill-0": 2}))
    assert places["prefill-0"] == 2
    assert places["prefill-0-rank-1"] in (0, 1)


def test_a_pin_of_a_worker_that_is_not_wanted_takes_no_room() -> None:
    text = "prefill: {workers: 1, tp: 8}"
    pinned = {"prefill-7": 0, "gateway": 1}
    places = where(place(topology(text, device="cuda"), nodes(8, 0), pinned))
    assert places["prefill-0"] == 0
    assert places["gateway"] == 0


def test_a_server_that_spans_nodes_stays_on_all_of_them() -> None:
    text = "prefill: {workers: 2, nodes: 2, tp: 8}\ndecode: {workers: 1, tp: 1}"
    own = topology(text, device="cuda")
    first = where(place(own, nodes(8, 8, 8)))
    more = topology(text.replace("workers: 2", "workers: 3"), device="cuda")
    again = where(place(more, nodes(8, 8, 8), first))
    assert {name: at for name, at in again.items() if name in first} == first
