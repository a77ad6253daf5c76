"""Topology + facts -> Plan: pure, and the same for the same input."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pdcache.checks.budget import budget
from pdcache.plan.formats import kv_format
from pdcache.plan.ports import MEETING_BAND, Ports
from pdcache.plan.process import NodeMemory, Plan, Process, Provenance, shares
from pdcache.plan.server import ServerContext, server_process
from pdcache.plan.services import gateway_process, store_process
from pdcache.store.backend import Ground
from pdcache.store.registry import BACKENDS
from pdcache.topology.facts import Facts
from pdcache.topology.placement import place
from pdcache.topology.ports import given_ports
from pdcache.topology.schema import WORKER_ROLES, Role, Topology


def build_plan(topology: Topology, facts: Facts, *, like: Plan | None = None) -> Plan:
    """Make a topology concrete.

    Args:
        like: the plan of the cluster that runs: what is in both keeps its node and its ports.

    Raises:
        PlanError: a given port is in use, or no free port is left.
    """
    given = {port for row in given_ports(topology).values() for port in row}
    ports = Ports(facts.port_free, given, *((like.ports, _owners(like)) if like else ()))
    folder = facts.home / "clusters" / topology.name
    gateway_port = ports.of("gateway").given(topology.gateway.port, "gateway.port")
    places = place(topology, facts.nodes, _nodes(like, facts) if like else {})
    memory = tuple(
        NodeMemory(node.node, node.needed_bytes, node.available_bytes, node.parts)
        for node in budget(topology, facts)
    )
    bytes_of = shares(memory)
    ground = Ground(
        topology=topology,
        addresses=tuple(node.address for node in facts.nodes),
        ports=ports.of("store"),
        folder=str(facts.temp / topology.name / "store"),
        binary=lambda name: binary(facts.python, name),
        python=facts.python,
        code=facts.code,
    )
    store = BACKENDS[topology.store.backend].lay_out(ground)
    formats = {role.value: kv_format(topology, facts, role) for role in WORKER_ROLES}
    meetings = {
        spot.name: f"{(node := facts.nodes[spot.node].address)}:"
        f"{ports.of(meeting_of(spot.name), node).choose(MEETING_BAND)}"
        for spot in places
        if spot.role in WORKER_ROLES and spot.rank == 0 and topology.worker(spot.role).nodes > 1
    }
    context = ServerContext(topology, facts, store, formats, meetings)
    processes: list[Process] = []
    provenance: dict[str, dict[str, Provenance]] = {}
    for spot in places:
        if spot.role in WORKER_ROLES:
            process, provenance[spot.name] = server_process(
                spot, context, ports.of(spot.name, facts.nodes[spot.node].address)
            )
        elif spot.role is Role.STORE:
            process = store_process(spot, store.service(spot), topology, facts)
        else:
            process = gateway_process(
                spot, topology, facts, gateway_port, ports.of("gateway metrics").service()
            )
        processes.append(replace(process, memory_bytes=bytes_of.get(process.name, 0)))
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
        store=store.access(),
        endpoint=endpoint,
        timeouts=topology.timeouts.model_dump(),
        provenance=provenance,
        controller_port=ports.of("controller").service(),
        ports=ports.book,
    )


def binary(python: str, name: str) -> str:
    """A program that stands beside the interpreter, as pip installs console scripts."""
    return str(Path(python).parent / name) if os.sep in python else name


def meeting_of(server: str) -> str:
    """Who owns the port where the ranks of a server meet."""
    return f"{server} meets"


def _owners(plan: Plan) -> dict[str, str]:
    """On which node each owner of ports is, by its address; the store is on several."""
    servers = [process for process in plan.processes if process.role in WORKER_ROLES]
    return {process.name: process.address for process in servers} | {
        meeting_of(process.name): process.address for process in servers
    }


def _nodes(plan: Plan, facts: Facts) -> dict[str, int]:
    """On which of the nodes the processes of a plan run; one that came back has its address."""
    addresses = [node.address for node in facts.nodes]
    return {
        process.name: addresses.index(process.address)
        for process in plan.processes
        if process.address in addresses
    }


def _served_path(topology: Topology, facts: Facts) -> str:
    view = facts.models.get(topology.model.path)
    return view.path if view is not None else topology.model.path
