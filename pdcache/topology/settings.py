"""What each key of a worker becomes as an SGLang argument, and where it came from.

`role_settings` is what a role asks for; `pdcache.topology.switches` then applies the switches that
SGLang makes itself.
"""

from __future__ import annotations

from typing import Any

from pdcache.topology.hicache import hicache_settings, pick
from pdcache.topology.schema import Mode, Role, Topology, Worker
from pdcache.topology.setting import Origin, Setting, Settings

CPU_L1_TOKENS = 8192
CPU_CHUNK_TOKENS = 2048
CPU_RUNNING_REQUESTS = 8
KV_ARGS = ("kv_cache_dtype", "quantization", "json_model_override_args", "revision")
"""Flags given under ``args`` that change the bytes of a page."""

KV_DTYPES = {"fp8_e4m3": 1, "fp8_e5m2": 1, "bf16": 2, "bfloat16": 2}
"""Bytes of a number by ``kv_cache_dtype``, where it is given."""

PARALLEL = {
    "tp": ("tp_size", "tensor parallel ranks a server"),
    "pp": ("pp_size", "pipeline stages a server"),
    "dp": ("dp_size", "replicas a server"),
    "attn_dp": ("attn_dp_size", "DP attention: ranks of tp that hold different requests"),
    "ep": ("ep_size", "expert parallel ranks"),
    "nodes": ("nnodes", "nodes a server"),
}
"""Keys of a role that say how one server is cut into ranks; all but tp are left out at 1."""


def role_settings(topology: Topology, role: Role) -> Settings:
    """SGLang server arguments of one role, as asked for and before any switch.

    A value of ``None`` means that SGLang's default applies.
    """
    worker = topology.worker(role)
    settings = _common(topology, role, worker) | _parallel(worker, role)
    for name, value in worker.args.items():
        if (key := flag_name(name)) in KV_ARGS:
            settings[key] = Setting.given(value, f"{role}.args.{name}")
    if role is Role.PREFILL:
        settings["enable_hierarchical_cache"] = Setting(
            True, "mode", "prefill workers run full HiCache in both modes", "mode"
        )
        settings |= hicache_settings(topology, role)
        settings["hicache_storage_prefetch_policy"] = pick(
            topology,
            role,
            "prefetch_policy",
            "wait_complete",
            "waits for L3 instead of computing again what it holds",
        )
    else:
        settings |= _decode(topology, worker)
    return settings


def flag_name(name: str) -> str:
    """``--page-size``, ``page-size`` and ``page_size`` are one flag."""
    return name.lstrip("-").replace("-", "_")


def attention_tp(worker: Worker) -> int:
    """Ranks that share one token's KV: DP attention divides the TP ranks among requests.

    Source: sglang 0.5.23 ``managers/cache_controller.py:757``.
    """
    return max(1, worker.tp // worker.attn_dp)


def ranks(worker: Worker) -> int:
    """GPUs, or on a CPU schedulers, of one server over all its nodes."""
    return worker.tp * worker.pp * worker.dp


def offload_stride(topology: Topology) -> Setting:
    """Tokens that decode offloads at a time."""
    stride = topology.decode.offload_stride
    if stride is not None:
        return Setting.given(stride, "decode.offload_stride")
    page = topology.decode.page_size or topology.page_size
    return Setting(page, "mode", "one page: a larger stride loses the tail of every answer",
                   "decode.offload_stride")  # fmt: skip


def _decode(topology: Topology, worker: Worker) -> Settings:
    settings: Settings = {}
    if topology.mode is Mode.FULL_OFFLOAD:
        settings["disaggregation_decode_enable_offload_kvcache"] = Setting(
            True, "mode", "full_offload: decode writes the KV of finished turns to L3", "mode"
        )
        settings |= hicache_settings(topology, Role.DECODE)
    if worker.radix_cache:
        settings["disaggregation_decode_enable_radix_cache"] = Setting.given(
            True, "decode.radix_cache"
        )
    if worker.retraction_backup is not None:
        settings["disaggregation_decode_retraction_backup"] = Setting.given(
            worker.retraction_backup, "decode.retraction_backup"
        )
    return settings


def _parallel(worker: Worker, role: Role) -> Settings:
    settings: Settings = {}
    for key, (argument, reason) in PARALLEL.items():
        value, path = getattr(worker, key), f"{role}.{key}"
        if key in worker.model_fields_set:
            settings[argument] = Setting.given(value, path)
        elif key == "tp":
            settings[argument] = Setting(value, "default", reason, path)
    return settings


def _common(topology: Topology, role: Role, worker: Worker) -> Settings:
    def choose(key: str, path: str, default: Any, reason: str, origin: Origin) -> Setting:
        value = getattr(worker, key)
        if value is not None:
            return Setting.given(value, f"{role}.{key}")
        return Setting(default, origin, reason, path)

    cpu, page = topology.device == "cpu", topology.page_size
    served = topology.model.served_name or topology.model.path.rstrip("/").split("/")[-1]
    settings: Settings = {
        "served_model_name": choose(
            "served_name", "model.served_name", served,
            "equal on all workers: it is part of L3 keys",
            "user" if topology.model.served_name is not None else "default",
        ),
        "dtype": choose(
            "dtype", "model.dtype", topology.model.dtype, "the shared model.dtype",
            "user" if topology.model.dtype != "auto" else "default",
        ),
        "page_size": choose(
            "page_size", "page_size", page, "the unit of reuse, equal on all workers",
            "user" if "page_size" in topology.model_fields_set else "default",
        ),
        "max_total_tokens": choose(
            "max_total_tokens", f"{role}.max_total_tokens", CPU_L1_TOKENS if cpu else None,
            "bounds the L1 pool to the machine's memory", "device",
        ),
        "max_running_requests": choose(
            "max_running_requests", f"{role}.max_running_requests",
            CPU_RUNNING_REQUESTS if cpu else None, "a CPU gains nothing from more", "device",
        ),
        "mem_fraction_static": choose(
            "mem_fraction_static", f"{role}.mem_fraction_static", None, "", "default"
        ),
        "radix_eviction_policy": choose(
            "eviction_policy", f"{role}.eviction_policy", None, "", "default"
        ),
    }  # fmt: skip
    if role is Role.PREFILL:
        settings["chunked_prefill_size"] = choose(
            "chunked_prefill_size", f"{role}.chunked_prefill_size",
            max(page, CPU_CHUNK_TOKENS // page * page) if cpu else None,
            "keeps a long prompt from blocking others", "device",
        )  # fmt: skip
    if settings["dtype"].value == "auto" and cpu:
        settings["dtype"] = Setting(
            "float32",
            "device",
            "exact, and fast on any CPU; bfloat16 is faster with AVX512_BF16",
            "model.dtype",
        )
    if topology.model.context_length is not None:
        settings["context_length"] = Setting.given(
            topology.model.context_length, "model.context_length"
        )
    for key, argument, reason in (
        ("metrics", "enable_metrics", "tiers and queues are read from /metrics"),
        ("cache_report", "enable_cache_report", "answers tell cached tokens"),
    ):
        path = f"{role}.{key}"
        settings[argument] = (
            Setting.given(getattr(worker, key), path)
            if key in worker.model_fields_set
            else Setting(True, "default", reason, path)
        )
    return settings
