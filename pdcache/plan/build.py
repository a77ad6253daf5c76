"""Topology + facts -> Plan: pure, and the same for the same input."""

from __future__ import annotations

import os
from pathlib import Path

from pdcache.checks.budget import budget, model_path
from pdcache.gateway.smg import gateway_argv
from pdcache.plan.ports import SERVICE_BAND, Ports
from pdcache.plan.process import KvFormat, NodeMemory, Plan, Process, Provenance, share
from pdcache.plan.server import ServerContext, server_process
from pdcache.store import mooncake
from pdcache.topology.facts import Facts
from pdcache.topology.placement import Place, place
from pdcache.topology.schema import Role, Topology
from pdcache.topology.settings import resolve, role_settings


def build_plan(topology: Topology, facts: Facts) -> Plan:
    """Make a topology concrete.

    Raises:
        PlanError: a given port is in use, or no free port is left.
    """
    ports = Ports(facts.port_free, _given_ports(topology))
    folder = facts.home / "clusters" / topology.name
    gateway_port = ports.given(topology.gateway.port, "gateway.port")
    places = place(topology, facts.nodes)
    memory = tuple(
        NodeMemory(node.node, node.needed_bytes, node.available_bytes, node.parts)
        for node in budget(topology, facts)
    )
    master = _master(topology, facts, ports)
    formats = {role.value: _format(topology, facts, role) for role in (Role.PREFILL, Role.DECODE)}
    processes: list[Process] = []
    provenance: dict[str, dict[str, Provenance]] = {}
    for spot in places:
        if spot.role in (Role.PREFILL, Role.DECODE):
            context = ServerContext(
                topology, facts, master, formats[spot.role.value].namespace, memory
            )
            process, origins = server_process(spot, context, ports)
            provenance[spot.name] = origins
        elif spot.role is Role.STORE:
            process = _store_process(spot, topology, facts, master, ports, memory)
        else:
            process = _gateway_process(spot, topology, facts, gateway_port, ports, folder, memory)
        processes.append(process)
    endpoint = processes[-1].url
    assert endpoint is not None
    return Plan(
        name=topology.name,
        mode=topology.mode,
        model_path=_served_path(topology, facts),
        dtype=formats["prefill"].dtype,
        processes=tuple(processes),
        memory=memory,
        formats=formats,
        manifest=str(folder / "workers.json"),
        temp=str(facts.temp / topology.name),
        python=facts.python,
        store_url=master.url,
        endpoint=endpoint,
        timeouts=topology.timeouts.model_dump(),
        provenance=provenance,
    )


def _given_ports(topology: Topology) -> set[int]:
    found = {topology.gateway.port, topology.store.port, topology.store.metrics_port}
    for worker in (topology.prefill, topology.decode):
        for first in (worker.port, worker.bootstrap_port):
            if first is not None:
                found |= set(range(first, first + worker.workers))
    return {port for port in found if port is not None}


def _served_path(topology: Topology, facts: Facts) -> str:
    view = facts.models.get(topology.model.path)
    return view.path if view is not None else topology.model.path


def _master(topology: Topology, facts: Facts, ports: Ports) -> mooncake.Master:
    store = topology.store
    if store.master is not None:
        host, _, port = store.master.rpartition(":")
        return mooncake.Master(host or store.master, int(port or 50051), store.metrics_port or 9003)
    chosen = [
        ports.given(given, f"store.{key}") if given else ports.choose(SERVICE_BAND)
        for key, given in (("port", store.port), ("metrics_port", store.metrics_port))
    ]
    return mooncake.Master(facts.nodes[0].address, chosen[0], chosen[1])


def _format(topology: Topology, facts: Facts, role: Role) -> KvFormat:
    settings = resolve(role_settings(topology, role), storage=topology.store.backend)
    if "hicache_mem_layout" not in settings:
        settings = resolve(role_settings(topology, Role.PREFILL)) | settings
    view = facts.models.get(model_path(topology, role))
    digest = view.weights_digest if view is not None else model_path(topology, role)
    is_mla = bool(view and view.is_mla)
    name = mooncake.namespace(topology, settings, digest, is_mla=is_mla)
    served, tp = str(settings["served_model_name"].value), int(settings["tp_size"].value)
    prefix, suffixes = mooncake.key_parts(name, served, tp, is_mla)
    return KvFormat(
        page_size=int(settings["page_size"].value),
        dtype=str(settings["dtype"].value),
        layout=str(settings["hicache_mem_layout"].value),
        io_backend=str(settings["hicache_io_backend"].value),
        tp=tp,
        served_name=served,
        namespace=name,
        key_prefix=prefix,
        key_suffixes=tuple(suffixes),
    )


def binary(python: str, name: str) -> str:
    """A program that stands beside the interpreter, as pip installs console scripts."""
    return str(Path(python).parent / name) if os.sep in python else name


def _store_process(
    spot: Place,
    topology: Topology,
    facts: Facts,
    master: mooncake.Master,
    ports: Ports,
    memory: tuple[NodeMemory, ...],
) -> Process:
    node = facts.nodes[spot.node]
    if spot.kind == "master":
        argv = mooncake.master_argv(binary(facts.python, "mooncake_master"), master)
        own = {"rpc": master.rpc_port, "metrics": master.metrics_port}
        url, path, port, wave = master.url, "/health", None, 0
    else:
        rpc = ports.choose(SERVICE_BAND)
        argv = mooncake.holder_argv(
            binary(facts.python, "mooncake_client"), master, node.address, rpc, topology
        )
        own, url, path, port, wave = {"rpc": rpc}, None, None, rpc, 1
    return Process(
        name=spot.name, role=Role.STORE, wave=wave, argv=argv,
        env={"MC_LOG_LEVEL": "ERROR"}, ports=own, address=node.address, ray_id=node.ray_id,
        url=url, ready_path=path, health_path=path, health_port=port, gpus=0,
        memory_bytes=share(memory, spot.name), grace_s=3.0, start_s=topology.timeouts.store_s,
    )  # fmt: skip


def _gateway_process(
    spot: Place,
    topology: Topology,
    facts: Facts,
    port: int,
    ports: Ports,
    folder: Path,
    memory: tuple[NodeMemory, ...],
) -> Process:
    host = topology.gateway.host
    metrics_port = ports.choose(SERVICE_BAND)
    node = facts.nodes[spot.node]
    reach = node.address if host in ("0.0.0.0", "::") else host
    argv = gateway_argv(
        binary(facts.python, "smg"),
        topology,
        host,
        port,
        metrics_port,
        str(folder / "workers.json"),
    )
    return Process(
        name=spot.name, role=Role.GATEWAY, wave=3, argv=argv, env={"NO_COLOR": "1"},
        ports={"http": port, "metrics": metrics_port}, address=node.address, ray_id=node.ray_id,
        url=f"http://{reach}:{port}",
        ready_path="/liveness", health_path="/liveness", health_port=None, gpus=0,
        memory_bytes=share(memory, spot.name), grace_s=3.0, start_s=topology.timeouts.gateway_s,
    )  # fmt: skip
