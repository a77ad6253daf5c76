"""A topology becomes processes: ports, flags with their provenance, environment, JSON."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from golden.plans import (
    GOLDEN,
    ONE_CPU_NODE,
    THREE_GPU_NODES,
    fixed_facts,
    golden_plan,
    shipped,
)

from pdcache.errors import PlanError, TopologyError
from pdcache.plan import Plan, build_plan
from pdcache.plan.build import binary
from pdcache.plan.ports import SERVER_BAND, SERVICE_BAND
from pdcache.plan.process import Process
from pdcache.sglang_cpu import pythonpath_folder
from pdcache.topology import Role

PLANS = pytest.mark.parametrize("name", GOLDEN)


def plan(*overrides: str, topology: str = "full_offload") -> Plan:
    return build_plan(shipped(topology, *overrides), fixed_facts())


def all_ports(made: Plan) -> list[int]:
    return [port for process in made.processes for port in process.ports.values()]


def servers(made: Plan) -> tuple[Process, ...]:
    return (*made.role(Role.PREFILL), *made.role(Role.DECODE))


def flags(process: Process) -> Iterator[tuple[str, str | None]]:
    """The flags of a server's argv, each with its value or None."""
    words = list(process.argv[3:])
    while words:
        flag = words.pop(0)
        assert flag.startswith("--"), flag
        yield flag, words.pop(0) if words and not words[0].startswith("--") else None


def flag(process: Process, name: str) -> str | None:
    return dict(flags(process)).get(name)


@PLANS
def test_no_two_processes_share_a_port_or_a_name(name: str) -> None:
    made = golden_plan(name)
    assert max(Counter(all_ports(made)).values()) == 1
    assert max(Counter(process.name for process in made.processes).values()) == 1


@PLANS
def test_every_flag_of_a_server_has_a_provenance_and_the_same_value(name: str) -> None:
    made = golden_plan(name)
    for process in servers(made):
        origins = made.provenance[process.name]
        given = list(flags(process))
        assert [flag for flag, _ in given] == list(origins)
        for flag, value in given:
            assert value == (None if origins[flag].value is True else str(origins[flag].value))
            assert origins[flag].reason, flag


@PLANS
def test_store_comes_first_then_the_workers_then_the_gateway(name: str) -> None:
    processes = golden_plan(name).processes
    waves = [process.wave for process in processes]
    assert waves == sorted(waves)
    roles = list(dict.fromkeys(process.role for process in processes))
    assert roles[-3:] == [Role.PREFILL, Role.DECODE, Role.GATEWAY]
    assert roles[:-3] in ([], [Role.STORE])
    assert processes[-1].name == "gateway"


@PLANS
def test_every_process_tells_how_to_know_that_it_is_ready(name: str) -> None:
    for process in golden_plan(name).processes:
        by_http = {process.url is not None, bool(process.ready_path), bool(process.health_path)}
        assert by_http == {process.health_port is None}
        assert process.health_port in (None, *process.ports.values())
        assert process.start_s > 0
        assert process.grace_s > 0


@PLANS
def test_the_memory_of_a_process_is_what_the_budget_gives_it(name: str) -> None:
    made = golden_plan(name)
    for process in made.processes:
        parts = [node.parts for node in made.memory]
        own = [s for p in parts for part, s in p.items() if part.startswith(f"{process.name} ")]
        assert process.memory_bytes == sum(own) > 0


@PLANS
def test_all_workers_of_a_store_write_under_the_same_keys(name: str) -> None:
    formats = golden_plan(name).formats
    assert set(formats) == {"prefill", "decode"}
    if golden_plan(name).mode.value == "full_offload":
        sized = {role: replace(found, l2_tokens=None) for role, found in formats.items()}
        assert sized["prefill"] == sized["decode"]


@PLANS
def test_the_storage_options_of_a_server_are_inline_json_with_its_namespace(name: str) -> None:
    made = golden_plan(name)
    for process in servers(made):
        text = flag(process, "--hicache-storage-backend-extra-config")
        offloads = made.mode.value == "full_offload" or process.role is Role.PREFILL
        assert (text is not None) == offloads
        if text is not None:
            options = json.loads(text)
            assert ("prefetch_threshold" in options) == (process.role is Role.PREFILL)
            namespace = made.formats[process.role.value].namespace
            if made.store.backend == "mooncake":
                assert options["extra_backend_tag"] == namespace
                assert options["global_segment_size"] == 0
            elif made.store.backend != "simm":
                told = [text, *process.env.values(), *process.files.values()]
                assert any(namespace in one for one in told)


def test_the_modes_differ_in_what_decode_gets() -> None:
    (plain,) = plan(topology="prefill_only").role(Role.DECODE)
    (offloads,) = plan().role(Role.DECODE)
    new = set(dict(flags(offloads))) - set(dict(flags(plain)))
    assert new == {
        "--disaggregation-decode-enable-offload-kvcache",
        "--hicache-ratio", "--hicache-io-backend", "--hicache-mem-layout",
        "--hicache-write-policy", "--hicache-storage-backend",
        "--hicache-storage-backend-extra-config",
    }  # fmt: skip
    assert "SGLANG_HICACHE_DECODE_OFFLOAD_STRIDE" not in plain.env
    assert offloads.env["SGLANG_HICACHE_DECODE_OFFLOAD_STRIDE"] == "64"
    assert "SGLANG_HICACHE_DECODE_OFFLOAD_STRIDE" not in plan().process("prefill-0").env


def test_only_workers_on_a_cpu_get_the_cpu_lane() -> None:
    for process in servers(plan()):
        assert process.env["SGLANG_USE_CPU_ENGINE"] == "1"
        assert flag(process, "--device") == "cpu"
    for process in servers(golden_plan("full_offload_cuda")):
        assert "PYTHONPATH" not in process.env
        assert "SGLANG_USE_CPU_ENGINE" not in process.env
        assert flag(process, "--device") is None
    for process in plan().processes:
        if process.role in (Role.STORE, Role.GATEWAY):
            assert "PYTHONPATH" not in process.env


def test_a_users_environment_and_flags_reach_the_worker_and_win() -> None:
    made = plan("decode.env.MC_LOG_LEVEL=INFO", "decode.args.log-level=debug")
    (decode,) = made.role(Role.DECODE)
    assert decode.env["MC_LOG_LEVEL"] == "INFO"
    assert flag(decode, "--log-level") == "debug"
    assert made.provenance["decode-0"]["--log-level"].origin == "user"
    assert made.provenance["decode-0"]["--log-level"].path == "decode.args.log-level"
    assert made.process("prefill-0").env["MC_LOG_LEVEL"] == "ERROR"


def test_given_ports_count_up_from_the_first_server() -> None:
    made = plan("prefill.port=30000", "prefill.bootstrap_port=8998", "decode.port=31000")
    assert [process.ports for process in servers(made)] == [
        {"http": 30000, "bootstrap": 8998},
        {"http": 30001, "bootstrap": 8999},
        {"http": 31000},
    ]
    assert flag(made.process("prefill-1"), "--disaggregation-bootstrap-port") == "8999"


@pytest.mark.parametrize(
    "override",
    [
        f"prefill.bootstrap_port={SERVICE_BAND.start}",
        f"decode.port={SERVER_BAND.start}",
        f"gateway.port={SERVICE_BAND.start + 1}",
        f"store.metrics_port={SERVICE_BAND.start}",
    ],
)
def test_a_port_that_is_given_to_one_process_is_never_chosen_for_another(override: str) -> None:
    assert max(Counter(all_ports(plan(override))).values()) == 1


@pytest.mark.parametrize(
    ("overrides", "taken", "key"),
    [
        ([], 8000, "gateway.port"),
        (["store.port=20500"], 20500, "store.port"),
        (["store.metrics_port=20500"], 20500, "store.metrics_port"),
        (["prefill.port=30000"], 30001, "prefill.port"),
        (["prefill.bootstrap_port=8998"], 8998, "prefill.bootstrap_port"),
        (["decode.port=31000"], 31000, "decode.port"),
    ],
)
def test_a_given_port_in_use_is_refused_by_its_key(
    overrides: list[str], taken: int, key: str
) -> None:
    facts = fixed_facts(port_free=lambda port: port != taken)
    with pytest.raises(PlanError, match=f"port {taken} is in use") as caught:
        build_plan(shipped("full_offload", *overrides), facts)
    assert caught.value.where == key
    assert f"--set {key}=" in str(caught.value.remedy)


def test_ports_in_use_are_passed_over() -> None:
    busy = {SERVICE_BAND.start, SERVER_BAND.start, SERVER_BAND.start + 1}
    made = build_plan(shipped("full_offload"), fixed_facts(port_free=lambda port: port not in busy))
    assert not busy & set(all_ports(made))
    assert max(Counter(all_ports(made)).values()) == 1


@pytest.mark.parametrize("band", [SERVER_BAND, SERVICE_BAND])
def test_a_band_without_a_free_port_is_named(band: range) -> None:
    facts = fixed_facts(port_free=lambda port: port not in band)
    with pytest.raises(PlanError, match=f"no free port between {band.start} and {band.stop - 1}"):
        build_plan(shipped("full_offload"), facts)


def test_more_servers_than_ports_of_the_band_are_refused() -> None:
    with pytest.raises(PlanError, match="no free port between 21000 and 21099"):
        plan(f"prefill.workers={len(SERVER_BAND)}")


def test_workers_of_several_nodes_reach_each_other_by_the_nodes_addresses() -> None:
    made = golden_plan("three_nodes")
    for process in servers(made):
        assert flag(process, "--host") == process.address
        assert process.env["SGLANG_HOST_IP"] == process.address
        assert process.env["MOONCAKE_LOCAL_HOSTNAME"] == process.address
        assert process.url == f"http://{process.address}:{process.ports['http']}"
    by_address = {node.address: node.ray_id for node in THREE_GPU_NODES}
    assert all(by_address[process.address] == process.ray_id for process in made.processes)
    holders = [process for process in made.processes if "holder" in process.name]
    assert [process.address for process in holders] == list(by_address)


def test_a_server_reserves_the_gpus_of_its_ranks() -> None:
    made = golden_plan("three_nodes")
    assert {process.name: process.gpus for process in servers(made)} == dict.fromkeys(
        ["prefill-0", "prefill-1", "decode-0", "decode-1"], 4
    )
    used = Counter[str]()
    for process in made.processes:
        used[process.address] += process.gpus
    assert max(used.values()) <= 8
    assert {process.gpus for process in plan().processes} == {0}


def test_a_given_store_is_used_and_not_started() -> None:
    made = plan("store.master=10.9.9.9:50052", "store.metrics_port=9004")
    assert made.role(Role.STORE) == ()
    assert made.store.urls == ("http://10.9.9.9:9004",)
    options = json.loads(
        str(flag(made.process("decode-0"), "--hicache-storage-backend-extra-config"))
    )
    assert options["master_server_address"] == "10.9.9.9:50052"
    assert options["master_metrics_port"] == 9004


def test_a_process_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="prefill-9"):
        plan().process("prefill-9")


def test_programs_stand_beside_the_interpreter() -> None:
    assert binary("/opt/venv/bin/python3", "smg") == "/opt/venv/bin/smg"
    assert binary("python", "smg") == "smg"


@PLANS
def test_a_plan_as_json_has_the_keys_that_programs_rely_on(name: str) -> None:
    made = golden_plan(name)
    data = json.loads(json.dumps(made.as_json()))
    assert data["schema"] == 1
    assert data.keys() >= {"name", "mode", "processes", "memory", "provenance"}
    assert data["mode"] in ("prefill_only", "full_offload")
    assert len(data["processes"]) == len(made.processes)
    for process in data["processes"]:
        assert process["role"] in ("prefill", "decode", "store", "gateway")
        assert all(isinstance(word, str) for word in process["argv"])
        assert all(isinstance(value, str) for value in process["env"].values())
        assert all(isinstance(port, int) for port in process["ports"].values())
        assert set(process["resources"]) == {"gpus", "memory_bytes"}
    for node in data["memory"]:
        assert node.keys() >= {"node", "needed_bytes", "available_bytes", "parts"}
        assert sum(node["parts"].values()) == node["needed_bytes"]
    assert {p["name"] for p in data["processes"] if p["role"] in ("prefill", "decode")} == set(
        data["provenance"]
    )


def test_a_plan_is_for_the_nodes_at_hand() -> None:
    assert [node.node for node in golden_plan("three_nodes").memory] == [
        node.address for node in THREE_GPU_NODES
    ]
    assert [node.node for node in plan().memory] == [node.address for node in ONE_CPU_NODE]


def test_kv_events_are_published_on_the_ports_that_are_given() -> None:
    made = plan(
        "prefill.kv_events={port: 5600, topic: kv, replay_port: 5700}",
        "decode.kv_events.port=5800",
    )
    assert [process.ports.get("kv_events") for process in servers(made)] == [5600, 5601, 5800]
    assert [process.ports.get("kv_replay") for process in servers(made)] == [5700, 5701, None]
    configs = [json.loads(str(flag(process, "--kv-events-config"))) for process in servers(made)]
    assert configs == [
        {
            "publisher": "zmq", "endpoint": "tcp://127.0.0.1:5600", "bind": True, "topic": "kv",
            "replay_endpoint": "tcp://127.0.0.1:5700",
        },
        {
            "publisher": "zmq", "endpoint": "tcp://127.0.0.1:5601", "bind": True, "topic": "kv",
            "replay_endpoint": "tcp://127.0.0.1:5701",
        },
        {"publisher": "zmq", "endpoint": "tcp://127.0.0.1:5800", "bind": True, "topic": ""},
    ]  # fmt: skip
    assert made.provenance["prefill-0"]["--kv-events-config"].path == "prefill.kv_events"
    assert flag(plan().process("prefill-0"), "--kv-events-config") is None


def test_every_dp_rank_publishes_on_a_port_of_its_own() -> None:
    made = plan("prefill.kv_events.port=5600", "prefill.dp=4")
    assert [made.process(f"prefill-{i}").ports["kv_events"] for i in range(2)] == [5600, 5604]


DYNAMIC = (
    "store={backend: dynamic, backend_name: a, module_path: m, class_name: C, code: /opt/m.py}"
)


def with_code(*overrides: str) -> Plan:
    facts = fixed_facts(code={"m.py": "class C: ...\n"})
    return build_plan(shipped("full_offload", DYNAMIC, *overrides), facts)


def test_the_cpu_lane_stands_before_the_code_of_the_store_and_that_before_the_users_path() -> None:
    made = with_code("decode.env.PYTHONPATH=/mine:/yours")
    decode, code = made.process("decode-0"), f"{made.temp}/store/code"
    assert decode.env["PYTHONPATH"] == os.pathsep.join(
        [str(pythonpath_folder()), code, "/mine", "/yours"]
    )
    assert dict(decode.files) == {f"{code}/m.py": "class C: ...\n"}


def test_on_a_gpu_the_code_of_the_store_stands_alone() -> None:
    made = with_code("device=cuda")
    assert made.process("prefill-0").env["PYTHONPATH"].endswith("/code")
    assert os.pathsep not in made.process("prefill-0").env["PYTHONPATH"]


def test_plain_decode_gets_nothing_of_the_store() -> None:
    store = "store={backend: file, path: /nfs}"
    made = plan(store, topology="prefill_only")
    assert made.process("prefill-0").folders == (f"/nfs/{made.formats['prefill'].namespace}",)
    assert made.process("decode-0").folders == ()
    assert plan(store).process("decode-0").folders == made.process("prefill-0").folders


def test_further_options_of_the_store_reach_sglang_and_pdcaches_own_win() -> None:
    made = plan("store.extra={client_buffer: 7, check_server: true}")
    text = flag(made.process("decode-0"), "--hicache-storage-backend-extra-config")
    options = json.loads(str(text))
    assert options["client_buffer"] == 7
    assert options["check_server"] is False


def test_prefix_keys_are_handed_on_by_prefill_where_they_are_asked_for() -> None:
    made = plan("hicache.pass_prefix_keys=true")
    name = "--hicache-storage-backend-extra-config"
    prefill, decode = (
        json.loads(str(flag(made.process(worker), name))) for worker in ("prefill-0", "decode-0")
    )
    assert prefill["hicache_storage_pass_prefix_keys"] is True
    assert "hicache_storage_pass_prefix_keys" not in decode


STORES = {
    "ha": ("store={ha: {masters: 2}, holders: 1}",
           ["store-etcd", "store-master-0", "store-master-1", "store-holder-0"]),
    "hf3fs": ("store={backend: hf3fs, path: /3fs}", ["store-metadata"]),
    "file": ("store={backend: file, path: /nfs}", []),
    "dynamic": (DYNAMIC, []),
}  # fmt: skip


@pytest.mark.parametrize("name", STORES)
def test_a_store_starts_before_the_workers_whatever_its_backend(name: str) -> None:
    override, expected = STORES[name]
    made = with_code() if name == "dynamic" else plan(override)
    assert [process.name for process in made.role(Role.STORE)] == expected
    worker_waves = {process.wave for process in servers(made)}
    assert worker_waves == {3}
    assert all(process.wave < 3 for process in made.role(Role.STORE))
    assert made.process("gateway").wave == 4
    assert made.store.backend == {"ha": "mooncake"}.get(name, name)
    assert max(Counter(all_ports(made)).values()) == 1


@pytest.mark.parametrize("limit_s", [2, 3, 10, 11, 19, 600])
def test_halves_of_a_request_give_up_before_the_gateway_does(limit_s: int) -> None:
    for server in servers(plan(f"gateway.request_timeout_s={limit_s}")):
        for what in ("BOOTSTRAP", "WAITING"):
            assert 0 < int(server.env[f"SGLANG_DISAGGREGATION_{what}_TIMEOUT"]) < limit_s


def test_a_limit_that_leaves_the_halves_no_time_is_refused() -> None:
    with pytest.raises(TopologyError, match=r"gateway\.request_timeout_s"):
        plan("gateway.request_timeout_s=1")
