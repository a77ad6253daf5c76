"""The processes of a plan that are no SGLang servers."""

from __future__ import annotations

from pdcache.gateway.smg import gateway_argv
from pdcache.plan.process import Process
from pdcache.sglang.keys_plugin import KEYS_ENV
from pdcache.store.backend import Service
from pdcache.topology.facts import Facts
from pdcache.topology.placement import Place
from pdcache.topology.schema import Role, Topology

WORKER_WAVE = 3
GATEWAY_WAVE = 4


def keys_file(topology: Topology, facts: Facts) -> str:
    """Where workers and the gateway find the cluster's keys; the same path on every node."""
    return str(facts.temp / topology.name / "keys.json")


def store_process(spot: Place, service: Service, topology: Topology, facts: Facts) -> Process:
    """A process of the store, as its backend describes it."""
    node, timeouts = facts.nodes[spot.node], topology.timeouts
    start_s = timeouts.worker_s if service.imports_sglang else timeouts.store_s
    return Process(
        name=spot.name, role=Role.STORE, wave=service.wave, argv=service.argv,
        env=dict(service.env), ports=service.ports, address=node.address, ray_id=node.ray_id,
        url=service.url, ready_path=service.health_path, health_path=service.health_path,
        health_port=service.health_port, gpus=0, memory_bytes=0, grace_s=service.grace_s,
        start_s=start_s, files=dict(service.files), folders=service.folders,
        restart_after_s=service.restart_after_s,
    )  # fmt: skip


def gateway_process(
    spot: Place, topology: Topology, facts: Facts, port: int, metrics_port: int
) -> Process:
    """smg, which reads the workers from the cluster's manifest."""
    host = topology.gateway.host
    node = facts.nodes[spot.node]
    reach = node.address if host in ("0.0.0.0", "::") else host
    manifest = str(facts.home / "clusters" / topology.name / "workers.json")
    return Process(
        name=spot.name, role=Role.GATEWAY, wave=GATEWAY_WAVE,
        argv=gateway_argv(facts.python, topology, host, port, metrics_port, manifest),
        env={"NO_COLOR": "1", KEYS_ENV: keys_file(topology, facts)},
        ports={"http": port, "metrics": metrics_port},
        address=node.address, ray_id=node.ray_id, url=f"http://{reach}:{port}",
        ready_path="/readiness", health_path="/liveness", health_port=None, gpus=0,
        memory_bytes=0, grace_s=3.0, start_s=topology.timeouts.gateway_s,
    )  # fmt: skip
