"""One SGLang server of a plan: flags with their provenance, environment, ports."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pdcache import sglang_cpu
from pdcache.plan.arguments import server_arguments
from pdcache.plan.ports import SERVER_BAND, SERVICE_BAND, WIDE_SERVER_BAND, OwnPorts
from pdcache.plan.process import KvFormat, Process, Provenance
from pdcache.plan.services import WORKER_WAVE, keys_file
from pdcache.sglang.flags import flag, words
from pdcache.sglang.keys_plugin import KEYS_ENV
from pdcache.store.backend import StoreLayout, WorkerAccess
from pdcache.topology.facts import Facts
from pdcache.topology.placement import Place
from pdcache.topology.schema import Mode, Role, Topology, Worker
from pdcache.topology.settings import offload_stride, ranks


@dataclass(frozen=True)
class ServerContext:
    """What all servers of a plan share; ``meetings`` is where the ranks of a server that spans
    nodes meet: ``host:port`` by the server's name.
    """

    topology: Topology
    facts: Facts
    store: StoreLayout
    formats: Mapping[str, KvFormat]
    meetings: Mapping[str, str]


def server_process(
    spot: Place, context: ServerContext, ports: OwnPorts
) -> tuple[Process, dict[str, Provenance]]:
    """One server, or the part of it on one node, and the provenance of each of its flags."""
    topology, facts = context.topology, context.facts
    worker, node = topology.worker(spot.role), facts.nodes[spot.node]
    own_ports = _ports(spot, worker, ports)
    uses_store = spot.role is Role.PREFILL or topology.mode is Mode.FULL_OFFLOAD
    access = WorkerAccess({})
    if uses_store:
        access = context.store.worker(
            node.address, spot.role, context.formats[spot.role.value].namespace
        )
    meeting = context.meetings.get(f"{spot.role}-{spot.index}")
    settings = server_arguments(spot, topology, facts, own_ports, access, meeting)
    argv = [facts.python, "-m", "sglang.launch_server"]
    provenance = {}
    for name, setting in settings.items():
        if setting.value is None or setting.value is False:
            continue
        argv += words(name, setting.value)
        provenance[flag(name)] = Provenance(
            setting.value, setting.origin, setting.reason, setting.path
        )
    process = Process(
        name=spot.name, role=spot.role, wave=WORKER_WAVE, argv=tuple(argv),
        env=_environment(
            context, spot.role, node.address, node.cpus, access.env, worker.env
        ),
        ports=own_ports, address=node.address, ray_id=node.ray_id,
        url=f"http://{node.address}:{own_ports['http']}",
        ready_path="/health_generate" if spot.rank == 0 else "/health",
        health_path="/health", health_port=None, gpus=spot.gpus,
        memory_bytes=0, grace_s=12.0, start_s=topology.timeouts.worker_s,
        rank=spot.rank, files=dict(access.files), folders=access.folders,
    )  # fmt: skip
    return process, provenance


def _ports(spot: Place, worker: Worker, ports: OwnPorts) -> dict[str, int]:
    """Ports of one part of a server; ranks of one server share the port numbers they can."""
    first = worker.port if spot.rank == 0 else None
    band = WIDE_SERVER_BAND if worker.attn_dp > 1 else SERVER_BAND
    own = {"http": _port(first, f"{spot.role}.port", spot.index, ports, band)}
    if spot.rank:
        return own
    if spot.role is Role.PREFILL:
        own["bootstrap"] = _port(
            worker.bootstrap_port, "prefill.bootstrap_port", spot.index, ports, SERVICE_BAND
        )
    if (events := worker.kv_events) is not None:
        step = max(worker.dp, worker.attn_dp) * spot.index
        own["kv_events"] = ports.given(events.port + step, f"{spot.role}.kv_events.port")
        if events.replay_port is not None:
            path = f"{spot.role}.kv_events.replay_port"
            own["kv_replay"] = ports.given(events.replay_port + step, path)
    return own


def _environment(
    context: ServerContext,
    role: Role,
    address: str,
    cpus: int,
    store: Mapping[str, str],
    own: dict[str, str],
) -> dict[str, str]:
    topology = context.topology
    env = {
        "SGLANG_HOST_IP": address,
        KEYS_ENV: keys_file(topology, context.facts),
        # SGLang leaves its sockets behind; a folder of our own is removed with the cluster.
        "TMPDIR": str(context.facts.temp / topology.name),
        # `/health` would otherwise generate a token and take over a second each time.
        "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false",
        **_failing(topology),
        **store,
    }
    if topology.mode is Mode.FULL_OFFLOAD and role is Role.DECODE:
        env["SGLANG_HICACHE_DECODE_OFFLOAD_STRIDE"] = str(offload_stride(topology).value)
    paths = [store.get("PYTHONPATH", ""), own.get("PYTHONPATH", "")]
    if topology.device == "cpu":
        env |= sglang_cpu.worker_environment()
        env[sglang_cpu.HOST_RESERVE_ENV] = "0"
        env |= sglang_cpu.thread_binding(ranks(topology.worker(role)), cpus)
        # A path of the user's comes after the lane's, which the server cannot do without.
        paths.insert(0, str(sglang_cpu.pythonpath_folder()))
    if any(paths):
        own = own | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return env | own


def _failing(topology: Topology) -> dict[str, str]:
    """How soon one half of a request notices that the other half failed.

    Whole seconds, all of them below the gateway's own limit (sglang 0.5.23 ``environ.py:751-778``).
    Decode asks prefill's bootstrap server for a sign of life, and after that many misses drops the
    requests that wait for it; it keeps their KV until a transfer cannot come any more.
    """
    half = str(topology.gateway.request_timeout_s // 2)
    return {
        "SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT": half,
        "SGLANG_DISAGGREGATION_WAITING_TIMEOUT": half,
        "SGLANG_DISAGGREGATION_HEARTBEAT_INTERVAL": "2",
        "SGLANG_DISAGGREGATION_HEARTBEAT_MAX_FAILURE": "2",
        "SGLANG_DISAGGREGATION_DEFERRED_DECODE_KV_RELEASE_TIMEOUT": "3",
        # After one failed transfer prefill sends a decode nothing until a probe reaches it.
        "SGLANG_FAILED_SESSION_PROBE_INTERVAL_S": "1",
        "SGLANG_FAILED_SESSION_PROBE_MAX_INTERVAL_S": "2",
    }


def _port(given: int | None, path: str, index: int, ports: OwnPorts, band: range) -> int:
    return ports.choose(band) if given is None else ports.given(given + index, path)
