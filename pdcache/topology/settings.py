"""What each setting of a worker becomes, where it came from, and what SGLang makes of it.

`role_settings` turns the YAML into SGLang server arguments with their provenance; `resolve`
applies the switches that SGLang 0.5.23 applies itself, so that nothing changes silently later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pdcache.topology.schema import Hicache, Mode, Role, Topology, Worker

Origin = Literal["user", "default", "mode", "device", "rule"]

CPU_L1_TOKENS = 8192
CPU_CHUNK_TOKENS = 2048
CPU_RUNNING_REQUESTS = 8
CPU_STAGING_RATIO = 0.25
CUDA_STAGING_GB = 8
KV_ARGS = ("kv_cache_dtype", "quantization", "json_model_override_args", "revision")
"""Flags given under ``args`` that change the bytes of a page."""


@dataclass(frozen=True)
class Setting:
    """A value, who decided it, and why. ``path`` is where a user would change it in the YAML."""

    value: Any
    origin: Origin
    reason: str
    path: str


Settings = dict[str, Setting]


def role_settings(topology: Topology, role: Role) -> Settings:
    """SGLang server arguments that shape one role's KV, as asked for and before any switch.

    Keys are SGLang's own argument names (``hicache_mem_layout``, ``page_size``, …); a value of
    ``None`` means that SGLang's default applies.
    """
    worker = topology.worker(role)
    settings = _common(topology, role, worker)
    for name, value in worker.args.items():
        if (key := flag_name(name)) in KV_ARGS:
            path = f"{role}.args.{name}"
            settings[key] = Setting(value, "user", f"set in {path}", path)
    if role is Role.PREFILL:
        settings["enable_hierarchical_cache"] = Setting(
            True, "mode", "prefill workers run full HiCache in both modes", "mode"
        )
        settings |= _hicache(topology, role, worker)
        settings["hicache_storage_prefetch_policy"] = _pick(
            topology,
            role,
            "prefetch_policy",
            "wait_complete",
            "waits for L3 instead of computing again what it holds",
        )
    elif topology.mode is Mode.FULL_OFFLOAD:
        settings["disaggregation_decode_enable_offload_kvcache"] = Setting(
            True, "mode", "full_offload: decode writes the KV of finished turns to L3", "mode"
        )
        settings |= _hicache(topology, role, worker)
    return settings


def flag_name(name: str) -> str:
    """``--page-size``, ``page-size`` and ``page_size`` are one flag."""
    return name.lstrip("-").replace("-", "_")


def storage_options(topology: Topology) -> Settings:
    """Keys of ``hicache_storage_backend_extra_config`` that the prefetch of prefill obeys."""
    options = {
        "prefetch_threshold": _pick(
            topology,
            Role.PREFILL,
            "prefetch_threshold",
            topology.page_size,
            "one page: SGLang's default of 256 tokens never loads a shorter answer or question "
            "(sglang 0.5.23 mem_cache/unified_radix_cache.py)",
            origin="mode",
        )
    }
    hicache = merged_hicache(topology, Role.PREFILL)
    if hicache.prefetch_timeout_base_s is not None:
        options["prefetch_timeout_base"] = _pick(
            topology, Role.PREFILL, "prefetch_timeout_base_s", None, ""
        )
    if hicache.prefetch_timeout_per_ki_token_s is not None:
        options["prefetch_timeout_per_ki_token"] = _pick(
            topology, Role.PREFILL, "prefetch_timeout_per_ki_token_s", None, ""
        )
    return options


def resolve(settings: Mapping[str, Setting], *, storage: str | None = "mooncake") -> Settings:
    """Apply the layout and io switches of SGLang 0.5.23 (``arg_groups/hicache_hook.py``).

    The result is what the server will run with; a switched value has origin ``rule``.
    """
    resolved = dict(settings)
    if "hicache_mem_layout" not in resolved:
        return resolved

    def switch(key: str, value: str, reason: str) -> None:
        resolved[key] = Setting(value, "rule", reason, resolved[key].path)

    layout, io = resolved["hicache_mem_layout"].value, resolved["hicache_io_backend"].value
    if layout == "page_first_direct" and io == "kernel":
        switch("hicache_io_backend", "direct", "io `kernel` cannot copy layout page_first_direct")
        io = "direct"
    if layout == "page_first" and io == "direct":
        switch(
            "hicache_mem_layout", "page_first_direct", "io `direct` cannot copy layout page_first"
        )
    if layout == "layer_first" and storage == "mooncake" and io in ("direct", "kernel"):
        better = "page_first_direct" if io == "direct" else "page_first"
        switch("hicache_mem_layout", better, "Mooncake needs pages in one piece")
    return resolved


def merged_hicache(topology: Topology, role: Role) -> Hicache:
    """Shared HiCache settings with the role's own laid over them."""
    shared = topology.hicache.model_dump(exclude_unset=True)
    own = topology.worker(role).hicache.model_dump(exclude_unset=True)
    return Hicache(**(shared | own))


def _pick(
    topology: Topology,
    role: Role,
    key: str,
    default: Any,
    reason: str,
    origin: Origin = "default",
) -> Setting:
    """The user's HiCache value for ``key`` (role first, then shared), else the default."""
    own_path, shared_path = f"{role}.hicache.{key}", f"hicache.{key}"
    for hicache, path in (
        (topology.worker(role).hicache, own_path),
        (topology.hicache, shared_path),
    ):
        value = getattr(hicache, key)
        if value is not None:
            return Setting(value, "user", f"set in {path}", path)
    return Setting(default, origin, reason, shared_path)


def _hicache(topology: Topology, role: Role, worker: Worker) -> Settings:
    staging = role is Role.DECODE
    settings: Settings = {}
    size = _pick(topology, role, "size_gb", None, "")
    ratio = _pick(topology, role, "ratio", 2.0, "SGLang's own default, made explicit")
    if staging:
        # The shared L2 sizes are meant for prefill's cache; decode only stages what it writes.
        size = _own(topology, role, "size_gb") or Setting(None, "default", "", size.path)
        ratio = _own(topology, role, "ratio") or Setting(None, "default", "", ratio.path)
        reason = "decode only stages pages on their way to L3; SGLang would take 2x the KV pool"
        if size.value is None and ratio.value is None:
            if topology.device == "cpu":
                ratio = Setting(CPU_STAGING_RATIO, "device", reason, "decode.hicache.ratio")
            else:
                size = Setting(CUDA_STAGING_GB, "device", reason, "decode.hicache.size_gb")
    if size.value is not None:
        settings["hicache_size"] = size
    else:
        settings["hicache_ratio"] = ratio
    settings["hicache_io_backend"] = _pick(
        topology, role, "io_backend", "direct", "goes with the layout page_first_direct"
    )
    settings["hicache_mem_layout"] = _pick(
        topology, role, "layout", "page_first_direct", "a page is one piece: no copies to L3"
    )
    settings["hicache_write_policy"] = _pick(
        topology, role, "write_policy", "write_through", "L3 has a page as soon as it is computed"
    )
    settings["hicache_storage_backend"] = Setting(
        topology.store.backend, "mode", "the shared L3 of this cluster", "store.backend"
    )
    return settings


def _own(topology: Topology, role: Role, key: str) -> Setting | None:
    value = getattr(topology.worker(role).hicache, key)
    path = f"{role}.hicache.{key}"
    return None if value is None else Setting(value, "user", f"set in {path}", path)


def _common(topology: Topology, role: Role, worker: Worker) -> Settings:
    def choose(key: str, path: str, default: Any, reason: str, origin: Origin) -> Setting:
        value = getattr(worker, key)
        if value is not None:
            return Setting(value, "user", f"set in {role}.{key}", f"{role}.{key}")
        return Setting(default, origin, reason, path)

    cpu = topology.device == "cpu"
    page = topology.page_size
    cpu_chunk = max(page, CPU_CHUNK_TOKENS // page * page)
    served = topology.model.served_name
    origin: Origin = "user"
    if served is None:
        served, origin = topology.model.path.rstrip("/").split("/")[-1], "default"
    dtype = topology.model.dtype
    page_origin: Origin = "user" if "page_size" in topology.model_fields_set else "default"
    settings: Settings = {
        "served_model_name": choose(
            "served_name",
            "model.served_name",
            served,
            "equal on all workers: it is part of every L3 key",
            origin,
        ),
        "dtype": choose(
            "dtype",
            "model.dtype",
            dtype,
            "the shared model.dtype",
            "user" if dtype != "auto" else "default",
        ),
        "page_size": choose(
            "page_size",
            "page_size",
            topology.page_size,
            "the unit of reuse, equal on all workers",
            page_origin,
        ),
        "tp_size": Setting(
            worker.tp,
            "user" if "tp" in worker.model_fields_set else "default",
            "ranks a server",
            f"{role}.tp",
        ),
        "max_total_tokens": choose(
            "max_total_tokens",
            f"{role}.max_total_tokens",
            CPU_L1_TOKENS if cpu else None,
            "bounds the L1 pool to the machine's memory" if cpu else "",
            "device",
        ),
        "max_running_requests": choose(
            "max_running_requests",
            f"{role}.max_running_requests",
            CPU_RUNNING_REQUESTS if cpu else None,
            "a CPU gains nothing from more",
            "device",
        ),
        "mem_fraction_static": choose(
            "mem_fraction_static", f"{role}.mem_fraction_static", None, "", "default"
        ),
    }
    if role is Role.PREFILL:
        settings["chunked_prefill_size"] = choose(
            "chunked_prefill_size",
            f"{role}.chunked_prefill_size",
            cpu_chunk if cpu else None,
            "keeps a long prompt from blocking others",
            "device",
        )
    if settings["dtype"].value == "auto" and cpu:
        settings["dtype"] = Setting(
            "float32", "device", "faster than bfloat16 without AMX, and exact", "model.dtype"
        )
    context = topology.model.context_length
    if context is not None:
        settings["context_length"] = Setting(
            context, "user", "set in model.context_length", "model.context_length"
        )
    return settings
