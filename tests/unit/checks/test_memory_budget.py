"""The memory budget: bytes of every part, and how each setting moves them."""

from __future__ import annotations

import pytest
import yaml
from broken_topologies import data_of, findings_of, world
from golden.plans import GOLDEN, MODELS, ONE_GPU_NODE, fixed_facts

from pdcache.checks.budget import (
    HOLDER_BYTES,
    RAY_BYTES,
    SERVER_BYTES,
    SYSTEM_BYTES,
    NodeBudget,
    budget,
)
from pdcache.topology import parse_topology
from pdcache.topology.facts import Node

# SmolLM2 in 32 bits: 2 (K, V) x 30 layers x 3 heads x 64 numbers a token.
TOKEN = 2 * 30 * 3 * 64 * 4
WEIGHTS = 134_515_008 * 4


def budgets(text: str, nodes: tuple[Node, ...] = (Node(),)) -> list[NodeBudget]:
    topology = parse_topology(yaml.safe_dump(data_of(text)), source="t.yaml")
    return budget(topology, fixed_facts(nodes))


def parts(text: str = "") -> dict[str, int]:
    (node,) = budgets(text)
    return node.parts


@pytest.mark.parametrize("name", GOLDEN)
def test_a_budget_is_the_sum_of_its_parts(name: str) -> None:
    for node in budget(*GOLDEN[name]):
        assert node.needed_bytes == sum(node.parts.values())
        assert all(size >= 0 for size in node.parts.values())


def test_every_part_of_a_small_full_offload_cluster() -> None:
    found = parts("store: {segment_gb: 2}")
    assert {name: found[name] for name in found if name.startswith(("prefill", "decode"))} == {
        "prefill-0 process": SERVER_BYTES,
        "prefill-0 weights": WEIGHTS,
        "prefill-0 L1": 8192 * TOKEN,
        "prefill-0 L2": 16384 * TOKEN,
        "decode-0 process": SERVER_BYTES,
        "decode-0 weights": WEIGHTS,
        "decode-0 L1": 8192 * TOKEN,
        "decode-0 offload staging": 2048 * TOKEN,
    }
    assert found["store-holder-0 segment"] == 2_000_000_000
    assert found["store-holder-0 process"] == HOLDER_BYTES
    assert (found["ray"], found["system"]) == (RAY_BYTES, SYSTEM_BYTES)
    assert {"store-master process", "gateway process"} <= set(found)


@pytest.mark.parametrize(
    ("text", "part", "size"),
    [
        ("prefill: {max_total_tokens: 1000}", "prefill-0 L1", 1000 * TOKEN),
        ("prefill: {max_total_tokens: 1000}", "prefill-0 L2", 2000 * TOKEN),
        ("hicache: {ratio: 3.5}", "prefill-0 L2", int(8192 * 3.5) * TOKEN),
        ("hicache: {size_gb: 3}", "prefill-0 L2", 3_000_000_000),
        ("prefill: {tp: 2, hicache: {size_gb: 3}}", "prefill-0 L2", 6_000_000_000),
        ("prefill: {tp: 2}", "prefill-0 process", 2 * SERVER_BYTES),
        ("prefill: {tp: 2}", "prefill-0 L1", 8192 * TOKEN),
        ("model: {path: smollm2-135m, dtype: bfloat16}", "prefill-0 weights", WEIGHTS // 2),
        ("model: {path: smollm2-135m, dtype: bfloat16}", "prefill-0 L1", 8192 * TOKEN // 2),
        ("decode: {hicache: {ratio: 1.0}}", "decode-0 offload staging", 8192 * TOKEN),
        ("decode: {hicache: {size_gb: 1}}", "decode-0 offload staging", 1_000_000_000),
        ("store: {segment_gb: 0.5}", "store-holder-0 segment", 500_000_000),
    ],
)
def test_a_setting_moves_its_part(text: str, part: str, size: int) -> None:
    assert parts(text)[part] == size


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("prefill: {workers: 3}", {"prefill-1", "prefill-2"}),
        ("decode: {workers: 2}", {"decode-1"}),
        ("store: {holders: 2}", {"store-holder-1"}),
    ],
)
def test_every_further_process_is_counted_in_full(text: str, new: set[str]) -> None:
    base, more = parts(), parts(text)
    assert {name.partition(" ")[0] for name in set(more) - set(base)} == new
    kind = next(iter(new)).rpartition("-")[0]
    one = {name.partition(" ")[2]: size for name, size in base.items() if f"{kind}-0 " in name}
    for process in new:
        own = {n.partition(" ")[2]: s for n, s in more.items() if n.startswith(f"{process} ")}
        assert own == one


def test_in_prefill_only_decode_stages_nothing() -> None:
    assert "decode-0 offload staging" in parts()
    assert "decode-0 offload staging" not in parts("mode: prefill_only")


def test_a_given_store_costs_no_memory_here() -> None:
    assert not [name for name in parts("store: {master: '10.0.0.9:50051'}") if "store" in name]


def test_kv_of_a_gpu_is_not_host_memory_and_its_l2_is_unknown_without_a_size() -> None:
    text = "device: cuda\nmodel: {path: Qwen/Qwen3-8B}"
    (node,) = budgets(text, ONE_GPU_NODE)
    assert node.unknown == ("prefill-0 L2",)
    assert not [name for name in node.parts if name.endswith((" L1", " weights"))]
    assert node.parts["decode-0 offload staging"] == 8_000_000_000
    (sized,) = budgets(text + "\nhicache: {size_gb: 50}", ONE_GPU_NODE)
    assert sized.unknown == ()
    assert sized.parts["prefill-0 L2"] == 50_000_000_000


def test_each_node_has_its_own_budget() -> None:
    nodes = tuple(Node(f"10.0.0.{i}", memory_bytes=(i + 8) << 30) for i in range(3))
    found = budgets("prefill: {workers: 2}", nodes)
    assert [node.node for node in found] == ["10.0.0.0", "10.0.0.1", "10.0.0.2"]
    assert [node.available_bytes >> 30 for node in found] == [8, 9, 10]
    assert "store-master process" in found[0].parts
    for node in found:
        assert node.parts["ray"] == RAY_BYTES


def test_the_memory_a_user_grants_takes_the_place_of_the_machines() -> None:
    (node,) = budgets("memory: {host_gb: 12.5}")
    assert node.available_bytes == 12_500_000_000


def test_too_much_memory_is_told_with_its_largest_parts() -> None:
    (finding,) = findings_of(data_of("store: {segment_gb: 30}"), world())
    assert finding.rule == "host-memory"
    assert "the largest parts are store-holder-0 segment 30.00 GB" in finding.message


def test_the_numbers_of_the_model_are_those_of_its_view() -> None:
    view = MODELS["smollm2-135m"]
    assert (view.kv_values_per_token * 4, view.parameters * 4) == (TOKEN, WEIGHTS)
