"""What the HiCache keys become: a role's own value, else the shared one, else a default."""

from __future__ import annotations

from typing import Any

from pdcache.topology.schema import Mode, Role, Topology
from pdcache.topology.setting import Origin, Setting, Settings

CPU_STAGING_RATIO = 0.25
CUDA_STAGING_GB = 8


def pick(
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
            return Setting.given(value, path)
    return Setting(default, origin, reason, shared_path)


def hicache_settings(topology: Topology, role: Role) -> Settings:
    """SGLang's hicache arguments of a role that has an L2, or on decode a staging pool."""
    settings = _staging(topology) if role is Role.DECODE else _cache(topology)
    settings["hicache_io_backend"] = pick(
        topology, role, "io_backend", "direct", "goes with the layout page_first_direct"
    )
    settings["hicache_mem_layout"] = pick(
        topology, role, "layout", "page_first_direct", "a page is one piece: no copies to L3"
    )
    settings["hicache_write_policy"] = pick(
        topology, role, "write_policy", "write_through", "L3 has a page as soon as it is computed"
    )
    settings["hicache_storage_backend"] = Setting(
        topology.store.backend, "mode", "the shared L3 of this cluster", "store.backend"
    )
    return settings


def storage_options(topology: Topology) -> Settings:
    """Keys of ``hicache_storage_backend_extra_config`` that the prefetch of prefill obeys."""
    full = topology.mode is Mode.FULL_OFFLOAD
    options = {
        "prefetch_threshold": pick(
            topology,
            Role.PREFILL,
            "prefetch_threshold",
            topology.prefill.page_size or topology.page_size,
            "one page: SGLang's default of 256 tokens never loads a shorter "
            f"{'answer or question' if full else 'question'} "
            "(sglang 0.5.23 mem_cache/unified_radix_cache.py)",
            origin="mode",
        )
    }
    for key, option in (
        ("prefetch_timeout_base_s", "prefetch_timeout_base"),
        ("prefetch_timeout_per_ki_token_s", "prefetch_timeout_per_ki_token"),
        ("pass_prefix_keys", "hicache_storage_pass_prefix_keys"),
    ):
        chosen = pick(topology, Role.PREFILL, key, None, "")
        if chosen.value is not None:
            options[option] = chosen
    return options


def _cache(topology: Topology) -> Settings:
    """The size of prefill's L2: a size, else a ratio, else a fraction, else SGLang's ratio."""

    def own(key: str) -> Setting:
        return pick(topology, Role.PREFILL, key, None, "")

    settings: Settings = {}
    if own("size_gb").value is not None:
        settings["hicache_size"] = own("size_gb")
    elif own("ratio").value is None and own("host_memory_fraction").value is not None:
        settings["hicache_host_memory_fraction"] = own("host_memory_fraction")
    else:
        buffer_only = own("host_memory_mode").value == "buffer_only"
        settings["hicache_ratio"] = pick(
            topology, Role.PREFILL, "ratio", 1.2 if buffer_only else 2.0,
            "SGLang's own default, made explicit",
        )  # fmt: skip
    if own("host_memory_mode").value is not None:
        settings["hicache_host_memory_mode"] = own("host_memory_mode")
    return settings


def _staging(topology: Topology) -> Settings:
    """The size of decode's staging pool: the shared L2 sizes are meant for prefill's cache."""
    own = topology.decode.hicache
    if own.size_gb is not None:
        return {"hicache_size": Setting.given(own.size_gb, "decode.hicache.size_gb")}
    if own.ratio is not None:
        return {"hicache_ratio": Setting.given(own.ratio, "decode.hicache.ratio")}
    reason = "decode only stages pages on their way to L3; SGLang would take 2x the KV pool"
    if topology.device == "cpu":
        ratio = Setting(CPU_STAGING_RATIO, "device", reason, "decode.hicache.ratio")
        return {"hicache_ratio": ratio}
    size = Setting(CUDA_STAGING_GB, "device", reason, "decode.hicache.size_gb")
    return {"hicache_size": size}
