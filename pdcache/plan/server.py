"""One SGLang server of a plan: flags with their provenance, environment, ports."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pdcache import sglang_cpu
from pdcache.checks.budget import model_path
from pdcache.plan.ports import SERVER_BAND, SERVICE_BAND, Ports
from pdcache.plan.process import NodeMemory, Process, Provenance, share
from pdcache.sglang.flags import flag, words
from pdcache.store import mooncake
from pdcache.topology.facts import Facts
from pdcache.topology.placement import Place
from pdcache.topology.schema import Mode, Role, Topology
from pdcache.topology.settings import Origin, Setting, resolve, role_settings, storage_options


@dataclass(frozen=True)
class ServerContext:
    """What all servers of a plan share."""

    topology: Topology
    facts: Facts
    master: mooncake.Master
    namespace: str
    memory: tuple[NodeMemory, ...]


def server_process(
    spot: Place, context: ServerContext, ports: Ports
) -> tuple[Process, dict[str, Provenance]]:
    """The process of one prefill or decode server, and the provenance of each of its flags."""
    topology, facts = context.topology, context.facts
    worker, node = topology.worker(spot.role), facts.nodes[spot.node]
    http = _port(worker.port, f"{spot.role}.port", spot.index, ports, SERVER_BAND)
    own_ports = {"http": http}
    if spot.role is Role.PREFILL:
        own_ports["bootstrap"] = _port(
            worker.bootstrap_port, "prefill.bootstrap_port", spot.index, ports, SERVICE_BAND
        )
    settings = _settings(spot, context, http, own_ports.get("bootstrap"))
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
        name=spot.name, role=spot.role, wave=2, argv=tuple(argv),
        env=_environment(context, node.address, worker.env), ports=own_ports,
        address=node.address, ray_id=node.ray_id, url=f"http://{node.address}:{http}",
        ready_path="/health_generate",
        health_path="/health", health_port=None, gpus=spot.gpus,
        memory_bytes=share(context.memory, spot.name),
        grace_s=12.0, start_s=topology.timeouts.worker_s,
    )  # fmt: skip
    return process, provenance


def _settings(
    spot: Place, context: ServerContext, http: int, bootstrap: int | None
) -> dict[str, Setting]:
    topology, facts = context.topology, context.facts
    node = facts.nodes[spot.node]

    def fixed(value: Any, reason: str, path: str = "", origin: Origin = "rule") -> Setting:
        return Setting(value, origin, reason, path)

    view = facts.models.get(model_path(topology, spot.role))
    settings = {
        "model_path": fixed(
            view.path if view else model_path(topology, spot.role),
            "the model",
            "model.path",
            "user",
        ),
        "tokenizer_path": fixed(
            topology.worker(spot.role).tokenizer_path,
            "own tokenizer",
            f"{spot.role}.tokenizer_path",
            "user",
        ),
        "host": fixed(node.address, "the node's address: loopback on a single node"),
        "port": fixed(http, "free on this node, or given", f"{spot.role}.port"),
        "disaggregation_mode": fixed(spot.role.value, "the role", spot.role.value),
        "disaggregation_transfer_backend": fixed(
            topology.transfer.backend, "KV from prefill to decode", "transfer.backend", "default"
        ),
        "disaggregation_ib_device": fixed(
            topology.transfer.ib_device, "set in transfer.ib_device", "transfer.ib_device", "user"
        ),
        "disaggregation_bootstrap_port": fixed(
            bootstrap, "where decode workers meet this prefill", "prefill.bootstrap_port"
        ),
        "enable_metrics": fixed(True, "tiers and queues are read from /metrics", "", "default"),
        "enable_cache_report": fixed(True, "answers tell cached tokens", "", "default"),
    }
    settings |= resolve(role_settings(topology, spot.role), storage=topology.store.backend)
    if settings.get("dtype") and settings["dtype"].value == "auto":
        settings["dtype"] = Setting(None, "default", "SGLang's own choice", "model.dtype")
    if "hicache_storage_backend" in settings:
        options = storage_options(topology) if spot.role is Role.PREFILL else {}
        settings["hicache_storage_backend_extra_config"] = fixed(
            mooncake.extra_config(
                topology,
                context.master,
                node.address,
                context.namespace,
                {name: option.value for name, option in options.items()},
            ),
            "; ".join(
                [
                    "the store of this cluster; segments live in holders, not in workers",
                    *(f"{name}: {option.reason}" for name, option in options.items()),
                ]
            ),
            "store",
        )
    if topology.device == "cpu":
        for name, value in sglang_cpu.SERVER_FLAGS.items():
            settings.setdefault(
                name.lstrip("-").replace("-", "_"),
                Setting(value, "device", "needed by the CPU lane", "device"),
            )
    for name, arg in topology.worker(spot.role).args.items():
        path = f"{spot.role}.args.{name}"
        settings[name.lstrip("-").replace("-", "_")] = Setting(arg, "user", f"set in {path}", path)
    return settings


def _environment(context: ServerContext, address: str, own: dict[str, str]) -> dict[str, str]:
    topology = context.topology
    env = {
        "SGLANG_HOST_IP": address,
        "MOONCAKE_LOCAL_HOSTNAME": address,
        # SGLang leaves its sockets behind; a folder of our own is removed with the cluster.
        "TMPDIR": str(context.facts.temp / topology.name),
        # `/health` would otherwise generate a token and take over a second each time.
        "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false",
        **mooncake.CLIENT_ENV,
    }
    if topology.mode is Mode.FULL_OFFLOAD:
        env["SGLANG_HICACHE_DECODE_OFFLOAD_STRIDE"] = str(topology.page_size)
    if topology.device == "cpu":
        env |= sglang_cpu.worker_environment()
        env[sglang_cpu.HOST_RESERVE_ENV] = "0"
        # A path of the user's comes after the lane's, which the server cannot do without.
        paths = [str(sglang_cpu.pythonpath_folder()), own.get("PYTHONPATH", "")]
        own = own | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return env | own


def _port(given: int | None, path: str, index: int, ports: Ports, band: range) -> int:
    return ports.choose(band) if given is None else ports.given(given + index, path)
