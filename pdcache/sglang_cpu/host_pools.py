"""Bind the copies of `copies` into SGLang's host pool modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from pdcache.sglang_cpu import copies
from pdcache.sglang_cpu.targets import MissingTarget, Target

POOL_MODULES = tuple(
    f"sglang.srt.mem_cache.{name}"
    for name in (
        "pool_host.mha",
        "pool_host.mla",
        "pool_host.dsa",
        "pool_host.mamba",
        "pool_host.unified",
        "memory_pool_host",
    )
)


def copy_operations() -> dict[str, Callable[..., None]]:
    """Every supplied `transfer_kv_*` operation by name."""
    functions = inspect.getmembers(copies, inspect.isfunction)
    return {name: function for name, function in functions if name.startswith("transfer_kv_")}


def bind_copies() -> None:
    """Give the host pool modules the names they import only where there is a GPU.

    SGLang 0.5.23 binds them under `if _is_cuda or _is_hip` at module level, so on CPU the first
    copy is a NameError. A module that has a name already keeps it.

    Raises:
        MissingTarget: a module does not exist or does not use any of the operations.
    """
    operations = copy_operations()
    for name in POOL_MODULES:
        module = Target(name).load_module()
        if "transfer_kv_" not in inspect.getsource(module):
            raise MissingTarget(f"{name} does not copy with transfer_kv_* operations")
        for operation, function in operations.items():
            if not hasattr(module, operation):
                setattr(module, operation, function)
