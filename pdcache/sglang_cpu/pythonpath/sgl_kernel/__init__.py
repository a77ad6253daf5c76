"""Stand-in for SGLang's compiled kernels on a machine without a GPU.

Supplies what SGLang 0.5.23 imports whenever it runs its CPU engine. Other `*_cpu` operations,
those of speculative decoding, can be imported and say on call that they are not supplied.
"""

from typing import Any

import torch

if torch.cuda.is_available() or torch.version.hip:
    raise ImportError(
        "this sgl_kernel is pdcache's stand-in for machines without a GPU, and this machine's "
        f"torch has one; take {__path__[0].rpartition('/')[0]} off PYTHONPATH, or hide the GPU "
        "from CPU workers"
    )

from pdcache.sglang_cpu.slots import assign_req_to_token_pool_cpu, copy_all_layer_kv_cache_cpu

__all__ = ["assign_req_to_token_pool_cpu", "copy_all_layer_kv_cache_cpu"]
__version__ = "0.0.0+pdcache.cpu"


def __getattr__(name: str) -> Any:
    if name.startswith("_") or not name.endswith("_cpu"):
        raise AttributeError(f"pdcache's CPU stand-in for sgl_kernel has no {name!r}")

    def not_supplied(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(f"sgl_kernel.{name} is not supplied by pdcache's CPU lane")

    return not_supplied
