"""A server that spans nodes: a process on each, of which the first serves."""

from __future__ import annotations

import pytest
from golden.plans import THREE_GPU_NODES, fixed_facts

from pdcache.plan import Plan, build_plan
from pdcache.plan.process import Process
from pdcache.sglang.flags import flag
from pdcache.topology import Role, parse_topology

TP16 = """
name: wide
mode: full_offload
model: {path: Qwen/Qwen3-8B, served_name: qwen}
prefill: {tp: 16, nodes: 2, kv_events: {}}
decode: {tp: 8}
store: {holders: 1}
"""


@pytest.fixture
def plan() -> Plan:
    return build_plan(parse_topology(TP16, source="wide.yaml"), fixed_facts(THREE_GPU_NODES))


def value(process: Process, name: str) -> str | None:
    """The word after a flag, or None without the flag."""
    words = list(process.argv)
    return words[words.index(flag(name)) + 1] if flag(name) in words else None


def test_every_node_runs_one_rank_of_the_server(plan: Plan) -> None:
    ranks = [process for process in plan.processes if process.server == "prefill-0"]
    assert [process.name for process in ranks] == ["prefill-0", "prefill-0-rank-1"]
    assert [process.rank for process in ranks] == [0, 1]
    assert len({process.address for process in ranks}) == 2
    assert [process.gpus for process in ranks] == [8, 8]
    assert [value(process, "nnodes") for process in ranks] == ["2", "2"]
    assert [value(process, "node_rank") for process in ranks] == ["0", "1"]
    assert [value(process, "tp_size") for process in ranks] == ["16", "16"]


def test_all_ranks_meet_at_one_address_of_the_first(plan: Plan) -> None:
    first, second = plan.process("prefill-0"), plan.process("prefill-0-rank-1")
    meeting = value(first, "dist_init_addr")
    assert meeting == value(second, "dist_init_addr")
    host, _, port = str(meeting).rpartition(":")
    assert host == first.address
    taken = [own for process in plan.processes for own in process.ports.values()]
    assert int(port) not in taken


def test_only_the_first_rank_serves_requests(plan: Plan) -> None:
    assert [process.name for process in plan.role(Role.PREFILL)] == ["prefill-0"]
    first, second = plan.process("prefill-0"), plan.process("prefill-0-rank-1")
    assert first.ready_path == "/health_generate"
    assert second.ready_path == "/health"
    assert set(first.ports) == {"http", "bootstrap", "kv_events"}
    assert set(second.ports) == {"http"}
    assert value(second, "disaggregation_bootstrap_port") is None
    assert value(second, "kv_events_config") is None
    assert value(first, "kv_events_config") is not None


def test_every_rank_starts_in_one_wave_and_reaches_the_store(plan: Plan) -> None:
    first, second = plan.process("prefill-0"), plan.process("prefill-0-rank-1")
    assert first.wave == second.wave
    for process in (first, second):
        config = value(process, "hicache_storage_backend_extra_config")
        assert f'"local_hostname":"{process.address}"' in str(config)
        assert process.env["SGLANG_HOST_IP"] == process.address


def test_every_flag_of_every_rank_has_a_provenance(plan: Plan) -> None:
    rank = plan.provenance["prefill-0-rank-1"]
    assert rank["--node-rank"].origin == "rule"
    assert rank["--nnodes"].path == "prefill.nodes"


def test_a_server_on_one_node_knows_nothing_of_others(plan: Plan) -> None:
    decode = plan.process("decode-0")
    assert decode.server == "decode-0"
    for name in ("nnodes", "node_rank", "dist_init_addr"):
        assert value(decode, name) is None


def test_all_ranks_share_the_pages_of_their_server(plan: Plan) -> None:
    assert plan.formats["prefill"].tp == 16
    assert len(plan.formats["prefill"].key_suffixes) == 32
