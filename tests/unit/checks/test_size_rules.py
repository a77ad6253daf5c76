"""The rules on sizes, times, ports, devices and nodes: what does no harm, and what a fix gives."""

from __future__ import annotations

import pytest
import yaml
from broken_sizes import BIG, NO_RDMA, ON_GPUS, ONE_MEANT, RDMA
from broken_topologies import VIEWS, data_of, findings_of, merged, world
from golden.plans import ONE_CPU_NODE, fixed_facts

from pdcache.checks import Finding
from pdcache.checks.budget import budget
from pdcache.checks.fitting import LEAST_TOKENS, changed, fitting, lack, nested
from pdcache.topology import Topology, parse_topology
from pdcache.topology.facts import Facts, ModelView, Node, local_node, meant_nodes

DP_ATTENTION = "prefill: {port: 30000, tp: 2, attn_dp: 2}\ndecode: {tp: 2, attn_dp: 2}\n"
TIMEOUT = "hicache: {prefetch_policy: timeout, "


def topology_of(text: str) -> Topology:
    return parse_topology(yaml.safe_dump(data_of(text)), source="t.yaml")


def found(text: str, rule: str, facts: Facts | None = None) -> list[Finding]:
    own = findings_of(data_of(text), facts or world())
    return [finding for finding in own if finding.rule == rule]


@pytest.mark.parametrize(
    ("rule", "text", "nodes"),
    [
        pytest.param("l1-size", "traffic: {prompt_tokens: 8185}", None, id="a prompt that fits"),
        pytest.param("l1-size", ON_GPUS + "traffic: {prompt_tokens: 40000}", BIG,
                     id="the GPU decides, and is not known"),
        pytest.param("l1-size", "prefill: {max_total_tokens: 4096}", None,
                     id="a context that nobody set"),
        pytest.param("context", "traffic: {prompt_tokens: 8185}", None, id="the whole context"),
        pytest.param("context", "model: {context_length: 9000}\nprefill: {args: {json-model-"
                     "override-args: '{}'}}\ndecode: {args: {json-model-override-args: '{}'}}",
                     None, id="a model that is made to read more"),
        pytest.param("l2-ratio", "hicache: {size_gb: 1}", None, id="an L2 of twice L1 by size"),
        pytest.param("l2-ratio", "hicache: {host_memory_mode: buffer_only}", None,
                     id="an L2 that caches nothing"),
        pytest.param("l2-ratio", ON_GPUS + "hicache: {size_gb: 20}", BIG, id="an unknown L1"),
        pytest.param("prefetch-limit", "traffic: {prompt_tokens: 8185}", None,
                     id="a prompt of half of L2"),
        pytest.param("prefetch-limit", "traffic: {prompt_tokens: 8000}\nhicache: {ratio: 1.2, "
                     "host_memory_mode: buffer_only}", None, id="nine tenths of a buffer"),
        pytest.param("staging", "mode: prefill_only\ndecode: {max_running_requests: 64}", None,
                     id="decode that stages nothing"),
        pytest.param("staging", "decode: {max_running_requests: 64, attn_dp: 2, tp: 2}", None,
                     id="requests that ranks share"),
        pytest.param("l3-size", "store: {master: '10.0.0.9:50051', segment_gb: 0.1}", None,
                     id="the segments of a given store are not ours"),
        pytest.param("l3-size", "store: {segment_gb: 0.3, worker_segment_gb: 0.3}", None,
                     id="segments of workers and holders together"),
        pytest.param("l3-size", "store: {segment_gb: 0.3, ssd: {path: /ssd, size_gb: 1}}", None,
                     id="a disk behind the memory"),
        pytest.param("l3-size", "store: {segment_gb: 0.3}\nhicache: {host_memory_mode: "
                     "buffer_only}", None, id="an L2 that only stages"),
        pytest.param("l3-size", "store: {backend: file, path: /nfs}", None, id="files that grow"),
        pytest.param("hf3fs-file", "store: {backend: hf3fs, path: /3fs, file_size_gb: 1}", None,
                     id="a file of one L2"),
        pytest.param("host-memory", ON_GPUS + "hicache: {host_memory_fraction: 0.5}", BIG,
                     id="a share of what is free fits"),
        pytest.param("block-page-size", "page_size: 48", None, id="a page of the CPU lane"),
        pytest.param("block-page-size", ON_GPUS + "page_size: 16", BIG, id="a page of all kernels"),
        pytest.param("block-page-size", ON_GPUS + "page_size: 1\nprefill: {args: &a {attention-"
                     "backend: fa3}}\ndecode: {args: *a}", BIG, id="attention that was chosen"),
        pytest.param("large-page", "page_size: 256", None, id="a page of SGLang's threshold"),
        pytest.param("large-page", "mode: prefill_only\ntraffic: {answer_tokens: 10}", None,
                     id="answers that are not stored anyway"),
        pytest.param("prefetch-timeout", "hicache: {prefetch_policy: timeout}", None,
                     id="SGLang's own time"),
        pytest.param("prefetch-timeout", "hicache: {prefetch_timeout_per_ki_token_s: 0, "
                     "prefetch_timeout_base_s: 0}", None, id="no time limit"),
        pytest.param("prefetch-timeout", TIMEOUT + "prefetch_timeout_base_s: 1, "
                     "prefetch_timeout_per_ki_token_s: 0}", None, id="a constant that suffices"),
        pytest.param("timeout-unused", TIMEOUT + "prefetch_timeout_base_s: 3}", None,
                     id="a limit that is used"),
        pytest.param("prefetch-threshold", "hicache: {prefetch_threshold: 192}\n"
                     "traffic: {answer_tokens: 193}", None, id="answers of three pages"),
        pytest.param("prefetch-threshold", "mode: prefill_only\nhicache: {prefetch_threshold: 448}"
                     "\ntraffic: {prompt_tokens: 500}", None, id="a prompt of seven pages"),
        pytest.param("port-range", "prefill: {port: 65534, workers: 2}", None, id="the last ports"),
        pytest.param("sglang-ports", DP_ATTENTION + "gateway: {port: 30232}", None, id="below"),
        pytest.param("sglang-ports", DP_ATTENTION + "gateway: {port: 30240}", None, id="above"),
        pytest.param("sglang-ports", "prefill: {port: 30000}\ngateway: {port: 30235}", None,
                     id="no DP attention"),
        pytest.param("ib-device", "transfer: {ib_device: mlx5_1}", RDMA, id="a device of the node"),
        pytest.param("ib-device", "transfer: {ib_device: mlx5_9}", None, id="unknown devices"),
        pytest.param("ib-device", "transfer: {ib_device: map.json}", RDMA, id="a file of devices"),
        pytest.param("ib-device", "transfer: {ib_device: mlx5_9, backend: mooncake_tcp}", RDMA,
                     id="TCP leaves the device alone"),
        pytest.param("ib-device", "store: {protocol: tcp, device: mlx5_9}", RDMA, id="TCP too"),
        pytest.param("rdma", "", NO_RDMA, id="the CPU lane speaks TCP"),
        pytest.param("rdma", "store: {protocol: rdma}", RDMA, id="nodes with RDMA"),
        pytest.param("rdma", "store: {protocol: rdma}", None, id="it is not known"),
        pytest.param("transfer-backend", ON_GPUS + "transfer: {backend: nixl}", BIG, id="NIXL"),
        pytest.param("metrics-off", "prefill: {cache_report: false}", None,
                     id="decode answers the client"),
        pytest.param("nodes", "prefill: {nodes: 2, tp: 2}\ndecode: {tp: 2}",
                     (Node(), Node("10.0.0.2")), id="two nodes"),
        pytest.param("gpus", ON_GPUS + "prefill: {tp: 8}", (*BIG, *BIG), id="GPUs for all"),
    ],
)  # fmt: skip
def test_what_does_no_harm_is_not_found(
    rule: str, text: str, nodes: tuple[Node, ...] | None
) -> None:
    assert found(text, rule, world(nodes or ONE_CPU_NODE)) == []


def test_under_mla_l3_needs_the_pages_of_one_rank() -> None:
    mla = ModelView("/models/mla", kv_values_per_token=11520, is_mla=True, max_positions=8192)
    facts = fixed_facts(models=VIEWS | {"mla": mla})
    text = "prefill: {tp: 8}\ndecode: {tp: 8}\nstore: {segment_gb: 1}\nmodel: {path: MODEL}"
    assert found(text.replace("MODEL", "mla"), "l3-size", facts) == []
    (finding,) = found(text.replace("MODEL", "smollm2-135m"), "l3-size", facts)
    assert "the L2s on all prefill workers 2.0 GB" in finding.message


def test_a_file_of_3fs_holds_keys_and_values_apart() -> None:
    """A page of 46,080 x 64 bytes is two pieces of half of that."""
    page = 46_080 * 64
    text = "store: {backend: hf3fs, path: /3fs, file_size_gb: GB}"
    for size, fits in ((page, True), (page - 1, False), (page // 2, False)):
        findings = found(text.replace("GB", str(size / 1e9)), "hf3fs-file")
        assert [finding.severity for finding in findings] == ["warning" if fits else "error"]


def test_the_largest_sizes_give_way_and_no_more_than_is_lacking() -> None:
    topology = topology_of("store: {segment_gb: 12}")
    values = fitting(topology, fixed_facts())
    assert set(values) == {"store.segment_gb"}
    (node,) = budget(changed(topology, values), fixed_facts())
    assert -2e7 < lack(node) <= 0


def test_workers_go_only_when_no_size_can() -> None:
    values = fitting(topology_of("prefill: {workers: 12}"), fixed_facts())
    assert 1 < values["prefill.workers"] < 12
    assert values["prefill.max_total_tokens"] == LEAST_TOKENS


def test_where_nothing_can_be_smaller_the_fix_says_what_a_node_needs() -> None:
    topology = topology_of("memory: {host_gb: 2}")
    values = fitting(topology, fixed_facts())
    assert values["memory.host_gb"] > 2
    (node,) = budget(changed(topology, values), fixed_facts())
    assert lack(node) <= 0


def test_an_l2_that_the_gpu_decides_gets_a_size_when_its_ratio_is_too_large_anyway() -> None:
    topology = topology_of(ONE_MEANT.replace("1000", "70"))
    values = fitting(topology, world(meant_nodes(topology)))
    assert set(values) == {"hicache.size_gb"}


def test_a_size_for_an_unknown_l2_fits_into_the_node() -> None:
    text = ON_GPUS + "prefill: {tp: 8}\ndecode: {tp: 8}"
    facts = world((Node(memory_bytes=128 << 30, gpus=16),))
    (info,) = found(text, "host-memory", facts)
    assert info.severity == "info"
    mended = merged(data_of(text), yaml.safe_load(info.fix))
    assert [f for f in findings_of(mended, facts) if f.rule == "host-memory"] == []


def test_values_by_path_are_nested_as_in_yaml() -> None:
    assert nested({"a.b.c": 1, "a.d": 2, "e": 3}) == {"a": {"b": {"c": 1}, "d": 2}, "e": 3}


def test_too_few_gpus_are_mended_by_nodes_only_where_nodes_are_meant() -> None:
    text = ONE_MEANT + "prefill: {tp: 8}"
    meant = world(meant_nodes(topology_of(text)))
    assert [f.path for f in found(text, "gpus", meant)] == ["nodes.count"]
    real = world((Node("10.9.9.9", memory_bytes=1 << 40, gpus=4),))
    assert [(f.path, f.fix) for f in found(text, "gpus", real)] == [("device", "device: cpu")]


def test_the_servers_that_lack_gpus_are_told_by_their_parts() -> None:
    text = ONE_MEANT + "prefill: {tp: 16, nodes: 2, workers: 2}\ndecode: {tp: 8}"
    (finding,) = found(text, "gpus", world(meant_nodes(topology_of(text))))
    assert "2 x 8 GPUs on each of 2 nodes for prefill, 1 x 8 GPUs for decode" in finding.message
    assert yaml.safe_load(finding.fix) == {"nodes": {"count": 5}}


def test_more_ranks_are_proposed_to_both_roles_where_weights_leave_no_l1() -> None:
    text = ONE_MEANT.replace("gpu_gb: 80", "gpu_gb: 8")
    for finding in found(text, "l1-size", world(BIG)):
        assert yaml.safe_load(finding.fix) == {"prefill": {"tp": 4}, "decode": {"tp": 4}}


def test_the_rdma_devices_of_this_machine_are_known() -> None:
    rdma = local_node().rdma
    assert rdma is not None
    assert list(rdma) == sorted(rdma)
