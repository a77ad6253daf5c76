"""The switches that SGLang makes itself at start, so that nothing changes silently later.

Source: sglang 0.5.23 ``arg_groups/hicache_hook.py`` (resolve_layout_io_compatibility,
resolve_storage_layout_compatibility, validate_hicache_host_memory_mode).
"""

from __future__ import annotations

from collections.abc import Mapping

from pdcache.topology.setting import Setting, Settings

ONE_PIECE_STORES = ("mooncake",)
"""Backends for which SGLang gives up layer_first."""


def resolve(settings: Mapping[str, Setting]) -> Settings:
    """What a server will run with; a switched value has origin ``rule``."""
    resolved = dict(settings)
    if "hicache_mem_layout" not in resolved:
        return resolved

    def switch(key: str, value: str, reason: str) -> None:
        resolved[key] = Setting(value, "rule", reason, resolved[key].path)

    layout, io = resolved["hicache_mem_layout"].value, resolved["hicache_io_backend"].value
    storage = resolved["hicache_storage_backend"].value
    if layout == "page_first_direct" and io == "kernel":
        switch("hicache_io_backend", "direct", "io `kernel` cannot copy layout page_first_direct")
        io = "direct"
    if layout == "page_first" and io == "direct":
        switch(
            "hicache_mem_layout", "page_first_direct", "io `direct` cannot copy layout page_first"
        )
    if layout == "layer_first" and storage in ONE_PIECE_STORES and io in ("direct", "kernel"):
        better = "page_first_direct" if io == "direct" else "page_first"
        switch("hicache_mem_layout", better, "Mooncake needs pages in one piece")
    mode, policy = resolved.get("hicache_host_memory_mode"), resolved["hicache_write_policy"]
    if mode is not None and mode.value == "buffer_only" and policy.value == "write_back":
        switch("hicache_write_policy", "write_through", "buffer_only has no L2 to write back from")
    return resolved
