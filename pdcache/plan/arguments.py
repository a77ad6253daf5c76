"""All flags of one SGLang server, in the order of its command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pdcache import sglang_cpu
from pdcache.checks.budget import model_path
from pdcache.sglang.keys_plugin import PLACEHOLDER
from pdcache.store.backend import WorkerAccess
from pdcache.topology.facts import Facts
from pdcache.topology.hicache import storage_options
from pdcache.topology.placement import Place
from pdcache.topology.schema import Role, Topology
from pdcache.topology.setting import Origin, Setting, Settings
from pdcache.topology.settings import flag_name, role_settings
from pdcache.topology.switches import resolve


def server_arguments(
    spot: Place,
    topology: Topology,
    facts: Facts,
    ports: Mapping[str, int],
    access: WorkerAccess,
    meeting: str | None,
) -> Settings:
    """Settings by SGLang's argument names; ``None`` and ``False`` are not put on the line.

    Args:
        access: how this server reaches the store.
        meeting: ``host:port`` at rank 0 when the server spans several nodes.
    """
    worker = topology.worker(spot.role)
    settings = _identity(spot, topology, facts, ports)
    settings |= resolve(role_settings(topology, spot.role))
    if settings["dtype"].value == "auto":
        settings["dtype"] = Setting(None, "default", "SGLang's own choice", "model.dtype")
    if "hicache_storage_backend" in settings:
        settings["hicache_storage_backend_extra_config"] = _extra_config(spot, topology, access)
    if meeting is not None:
        settings |= _span(spot, meeting)
    if worker.kv_events is not None and spot.rank == 0:
        address = facts.nodes[spot.node].address
        config = _kv_events(address, ports, worker.kv_events.topic)
        settings["kv_events_config"] = Setting.given(config, f"{spot.role}.kv_events")
    if topology.device == "cpu":
        for name, value in sglang_cpu.SERVER_FLAGS.items():
            own = Setting(value, "device", "needed by the CPU lane", "device")
            settings.setdefault(flag_name(name), own)
    for name, arg in worker.args.items():
        settings[flag_name(name)] = Setting.given(arg, f"{spot.role}.args.{name}")
    return settings


def _identity(spot: Place, topology: Topology, facts: Facts, ports: Mapping[str, int]) -> Settings:
    def fixed(value: Any, reason: str, path: str = "", origin: Origin = "rule") -> Setting:
        return Setting(value, origin, reason, path)

    role, transfer = spot.role, topology.transfer
    path = model_path(topology, role)
    view = facts.models.get(path)
    address = facts.nodes[spot.node].address
    ib_device = transfer.ib_device
    return {
        "model_path": fixed(view.path if view else path, "the model", "model.path", "user"),
        "tokenizer_path": fixed(
            topology.worker(role).tokenizer_path, "own tokenizer", f"{role}.tokenizer_path", "user"
        ),
        "host": fixed(address, "the node's address: loopback on a single node"),
        "port": fixed(ports["http"], "free on this node, or given", f"{role}.port"),
        "admin_api_key": fixed(
            PLACEHOLDER, "the key itself is in a file: SGLang shows this one in its log"
        ),
        "disaggregation_mode": fixed(role.value, "the role", role.value),
        "disaggregation_transfer_backend": fixed(
            transfer.backend, "KV from prefill to decode", "transfer.backend",
            "user" if "backend" in transfer.model_fields_set else "default",
        ),
        "disaggregation_ib_device": fixed(
            ib_device, "set in transfer.ib_device", "transfer.ib_device", "user"
        ),
        "disaggregation_bootstrap_port": fixed(
            ports.get("bootstrap"), "where decode workers meet this prefill",
            "prefill.bootstrap_port",
        ),
    }  # fmt: skip


def _extra_config(spot: Place, topology: Topology, access: WorkerAccess) -> Setting:
    """Inline JSON: decode offload parses it with plain ``json.loads`` (sglang 0.5.23
    ``disaggregation/decode_kvcache_offload_manager.py:71``).
    """
    options = dict(topology.store.extra) | dict(access.options)
    reasons = [f"the {topology.store.backend} store of this cluster"]
    if spot.role is Role.PREFILL:
        for name, option in storage_options(topology).items():
            options[name] = option.value
            reasons.append(f"{name}: {option.reason}")
    text = json.dumps(options, separators=(",", ":"))
    return Setting(text, "rule", "; ".join(reasons), "store")


def _span(spot: Place, meeting: str) -> Settings:
    reason = "the ranks of this server meet at rank 0"
    path = f"{spot.role}.nodes"
    return {
        "node_rank": Setting(spot.rank, "rule", "which part of the server this is", path),
        "dist_init_addr": Setting(meeting, "rule", reason, path),
    }


def _kv_events(address: str, ports: Mapping[str, int], topic: str) -> str:
    """Sockets on the node's address alone: whoever reaches them reads all prompts."""
    config = {
        "publisher": "zmq", "endpoint": f"tcp://{address}:{ports['kv_events']}", "bind": True,
        "topic": topic,
    }  # fmt: skip
    if "kv_replay" in ports:
        config["replay_endpoint"] = f"tcp://{address}:{ports['kv_replay']}"
    return json.dumps(config, separators=(",", ":"))
