"""The copies between device and host pools, as SGLang names them."""

from pdcache.sglang_cpu.host_pools import copy_operations

globals().update(copy_operations())
