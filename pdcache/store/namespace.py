"""The namespace that keeps pages apart which must not be mixed."""

from __future__ import annotations

import hashlib
import json

from pdcache.topology.schema import Topology
from pdcache.topology.setting import Settings
from pdcache.topology.settings import KV_ARGS


def namespace(
    topology: Topology, settings: Settings, weights_digest: str, *, tp: int, is_mla: bool = False
) -> str:
    """A name from all that shapes the bytes of a page, unless the topology gives one.

    L3 keys of SGLang hold neither layout nor dtype. Two workers that would read each other's bytes
    wrongly get different namespaces, so the worst that can happen between them is a miss.

    Args:
        tp: ranks that share a token's KV. Under MLA a page is the same on every rank, and with
            ``tp_lcm_size`` heads are objects of their own, so it is left out.
    """
    if topology.store.namespace is not None:
        return topology.store.namespace
    shape = {
        key: settings[key].value
        for key in ("dtype", "page_size", "hicache_mem_layout", "hicache_io_backend")
    }
    if not is_mla and not getattr(topology.store, "tp_lcm_size", None):
        shape["tp_size"] = tp
    for key in (*KV_ARGS, "pp_size"):
        if key in settings and settings[key].value not in (None, 1):
            shape[key] = settings[key].value
    text = json.dumps([weights_digest, shape], sort_keys=True)
    return "kv" + hashlib.sha256(text.encode()).hexdigest()[:12]
