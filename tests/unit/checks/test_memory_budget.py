"""The memory budget: bytes of every part, and how each setting moves them."""

from __future__ import annotations

import pytest
import yaml
from broken_topologies import data_of, findings_of, world
from golden.plans import GOLDEN, MODELS, ONE_GPU_NODE, fixed_facts

from pdcache.checks.budget import (
    ETCD_BYTES,
    HOLDER_BYTES,
    MASTER_BYTES,
    METADATA_BYTES,
    RAY_BYTES,
    SERVER_BYTES,
    SYSTEM_BYTES,
    NodeBudget,
    budget,
    l2_tokens,
)
from pdcache.topology import Role, parse_topology
from pdcache.topology.facts import Node
from pdcache.topology.settings import role_settings

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
        "prefill-0 weights for few rows": WEIGHTS // 2,
        "prefill-0 L1": 8192 * TOKEN,
        "prefill-0 L2": (16384 + 64) * TOKEN,
        "decode-0 process": SERVER_BYTES,
        "decode-0 weights": WEIGHTS,
        "decode-0 weights for few rows": WEIGHTS // 2,
        "decode-0 L1": 8192 * TOKEN,
        "decode-0 offload staging": (2048 + 64) * TOKEN,
    }
    assert found["store-holder-0 segment"] == 2_000_000_000
    assert found["store-holder-0 process"] == HOLDER_BYTES
    assert (found["ray"], found["system"]) == (RAY_BYTES, SYSTEM_BYTES)
    assert {"store-master process", "gateway process"} <= set(found)


@pytest.mark.parametrize(
    ("text", "part", "size"),
    [
        ("prefill: {max_total_tokens: 1000}", "prefill-0 L1", 1000 * TOKEN),
        ("prefill: {max_total_tokens: 1000}", "prefill-0 L2", (1920 + 64) * TOKEN),
        ("hicache: {ratio: 3.5}", "prefill-0 L2", (28672 + 64) * TOKEN),
        ("hicache: {size_gb: 3}", "prefill-0 L2", 3_000_000_000),
        ("prefill: {tp: 2, hicache: {size_gb: 3}}", "prefill-0 L2", 6_000_000_000),
        ("prefill: {tp: 2}", "prefill-0 process", 2 * SERVER_BYTES),
        ("prefill: {tp: 2}", "prefill-0 L1", 8192 * TOKEN),
        ("model: {path: smollm2-135m, dtype: bfloat16}", "prefill-0 weights", WEIGHTS // 2),
        ("model: {path: smollm2-135m, dtype: bfloat16}", "prefill-0 L1", 8192 * TOKEN // 2),
        ("decode: {hicache: {ratio: 1.0}}", "decode-0 offload staging", (8192 + 64) * TOKEN),
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


def test_plain_decode_keeps_a_pool_for_the_requests_it_puts_back() -> None:
    """A fifth of L1, and at least one whole request."""
    text = "mode: prefill_only\ndecode: {max_total_tokens: 8000}\n"
    longest = "model: {path: smollm2-135m, context_length: 1000}"
    assert parts(text + longest)["decode-0 retraction backup"] == 1600 * TOKEN
    longest = "model: {path: smollm2-135m, context_length: 4000}"
    assert parts(text + longest)["decode-0 retraction backup"] == 4000 * TOKEN
    longest = "model: {path: smollm2-135m, context_length: 16000}"
    assert parts(text + longest)["decode-0 retraction backup"] == 8000 * TOKEN


def test_without_a_context_length_a_request_is_as_long_as_the_model_can_read() -> None:
    found = parts("mode: prefill_only\ndecode: {max_total_tokens: 4096}")
    longest = min(MODELS["smollm2-135m"].max_positions, 4096)
    assert found["decode-0 retraction backup"] == max(4096 // 5, longest) * TOKEN


@pytest.mark.parametrize("key", ["retraction_backup: cpu_tensor", "radix_cache: true"])
def test_decode_that_keeps_them_elsewhere_has_no_such_pool(key: str) -> None:
    found = parts(f"mode: prefill_only\ndecode: {{{key}}}")
    assert found["decode-0 retraction backup"] == 0


def test_decode_that_offloads_and_prefill_have_a_pool_already() -> None:
    assert not [name for name in parts() if "retraction" in name]
    plain = parts("mode: prefill_only")
    assert [name for name in plain if "retraction" in name] == ["decode-0 retraction backup"]


def test_every_server_that_uses_the_store_gives_the_segment_it_is_told_to() -> None:
    text = "prefill: {workers: 2}\nstore: {worker_segment_gb: 0.5, holders: 0}"
    found = {name: size for name, size in parts(text).items() if name.endswith(" segment")}
    assert found == dict.fromkeys(
        ["prefill-0 segment", "prefill-1 segment", "decode-0 segment"], 500_000_000
    )
    plain = parts(f"mode: prefill_only\n{text}")
    assert "prefill-0 segment" in plain
    assert "decode-0 segment" not in plain


def test_the_parts_of_a_server_are_divided_over_its_nodes() -> None:
    text = "prefill: {tp: 4, nodes: NODES, hicache: {size_gb: 3}}\nstore: {worker_segment_gb: 0.5}"
    nodes = tuple(Node(f"10.0.0.{i}", memory_bytes=64 << 30) for i in range(2))
    (whole,) = budgets(text.replace("NODES", "1"), nodes[:1])
    first, second = budgets(text.replace("NODES", "2"), nodes)
    for part in ("process", "weights", "L1", "L2", "segment"):
        half = first.parts[f"prefill-0 {part}"]
        assert half == second.parts[f"prefill-0-rank-1 {part}"]
        assert 2 * half == whole.parts[f"prefill-0 {part}"]


@pytest.mark.parametrize(
    ("section", "process", "size"),
    [
        ("{ha: {masters: 2}}", "store-master-1", MASTER_BYTES),
        ("{ha: {masters: 2}}", "store-etcd", ETCD_BYTES),
        ("{backend: hf3fs, path: /3fs}", "store-metadata", METADATA_BYTES),
    ],
)
def test_every_process_of_a_store_is_counted(section: str, process: str, size: int) -> None:
    assert parts(f"store: {section}")[f"{process} process"] == size


def test_a_folder_costs_no_memory() -> None:
    found = parts("store: {backend: file, path: /nfs}")
    assert not [name for name in found if name.startswith("store")]


@pytest.mark.parametrize("ratio", [0.25, 2.0, 3.5])
@pytest.mark.parametrize(("l1", "page"), [(8192, 64), (1000, 64), (1000, 1), (100, 64)])
def test_an_l2_by_ratio_is_whole_pages_of_l1_times_the_ratio_and_one_page_more(
    ratio: float, l1: int, page: int
) -> None:
    """SGLang keeps one page to pad with (mem_cache/pool_host/base.py)."""
    found = tokens_of_l2(f"page_size: {page}\nhicache: {{ratio: {ratio}}}", l1)
    assert found is not None
    assert found % page == 0
    assert 0 < found - l1 // page * page * ratio <= page


def test_an_l2_by_size_is_the_pages_that_fit_and_one_page_more() -> None:
    text = "hicache: {size_gb: 3}"
    assert tokens_of_l2(text, 8192) == (3_000_000_000 // TOKEN // 64 + 1) * 64
    assert tokens_of_l2(text, None) == tokens_of_l2(text, 8192)


@pytest.mark.parametrize(
    ("text", "l1", "token"),
    [
        ("hicache: {ratio: 2.0}", None, TOKEN),
        ("hicache: {size_gb: 3}", 8192, 0),
        ("hicache: {host_memory_fraction: 0.5}", 8192, TOKEN),
    ],
    ids=["ratio of an unknown L1", "size of unknown tokens", "share of what is free"],
)
def test_an_l2_is_unknown_where_what_it_is_made_of_is(
    text: str, l1: int | None, token: int
) -> None:
    assert tokens_of_l2(text, l1, token) is None


def tokens_of_l2(text: str, l1: int | None, token: int = TOKEN) -> int | None:
    topology = parse_topology(yaml.safe_dump(data_of(text)), source="t.yaml")
    return l2_tokens(role_settings(topology, Role.PREFILL), token, l1)


ON_GPUS = "device: cuda\nmodel: {path: Qwen/Qwen3-8B}\n"


def test_where_the_memory_of_a_gpu_is_known_so_are_l1_and_l2() -> None:
    """A share of the GPU, less the weights, divided by the KV of a token."""
    view = MODELS["Qwen/Qwen3-8B"]
    kv, weights = view.kv_values_per_token * 2, view.parameters * 2
    text = ON_GPUS + "nodes: {memory_gb: 256, gpu_gb: 80}\nprefill: {mem_fraction_static: 0.8}"
    (node,) = budgets(text, ONE_GPU_NODE)
    assert node.unknown == ()
    l1 = int(80e9 * 0.8 - weights) // kv
    assert node.parts["prefill-0 L2"] == (int(l1 // 64 * 64 * 2.0) // 64 + 1) * 64 * kv


def test_weights_and_kv_of_a_gpu_are_those_of_one_rank() -> None:
    text = ON_GPUS + "nodes: {memory_gb: 256, gpu_gb: 80}\nprefill: {mem_fraction_static: 0.8, tp: "
    (one,), (four,) = (budgets(f"{text}{tp}}}", ONE_GPU_NODE) for tp in (1, 4))
    # Four GPUs hold the weights once, so more than four times the KV.
    assert four.parts["prefill-0 L2"] > 4 * one.parts["prefill-0 L2"]
