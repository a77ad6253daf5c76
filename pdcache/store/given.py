"""Stores that run already and that pdcache only points workers at: AIBrix, EIC, SiMM, NIXL.

Facts: sglang 0.5.23 ``mem_cache/storage/{aibrix_kvcache,eic,simm,nixl}/``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pdcache.store.backend import (
    Ground,
    PageObjects,
    PageShape,
    Service,
    StoreAccess,
    Traits,
    WorkerAccess,
)
from pdcache.topology.placement import Place
from pdcache.topology.schema import Role
from pdcache.topology.stores import AibrixStore, EicStore, NixlStore, SimmStore

AIBRIX = Traits(
    processes="none: the cache behind it runs already",
    sharing="cluster",
    zero_copy=(),
    copied=("layer_first", "page_first", "page_first_direct", "page_head"),
    mla=False,
    isolation="AIBRIX_KV_CACHE_OL_L2_CACHE_NAMESPACE",
    health="the cache behind it accepts connections",
    packages=("aibrix_kvcache",),
)
EIC = Traits(
    processes="none: it runs already",
    sharing="cluster",
    zero_copy=("page_first",),
    copied=("layer_first", "page_first_direct", "page_head"),
    isolation="eic_namespace",
    health="nothing to ask",
    stages=False,
    packages=("eic",),
)
SIMM = Traits(
    processes="none: manager and data servers run already",
    sharing="cluster",
    zero_copy=("page_first", "page_first_direct"),
    copied=(),
    isolation="none: one SiMM cluster a deployment (with a tag every lookup misses)",
    health="the cluster manager accepts connections",
    packages=("simm",),
)
NIXL = Traits(
    processes="none",
    sharing="shared path",
    zero_copy=("page_first", "page_first_direct"),
    copied=("layer_first", "page_head"),
    isolation="a folder of its own; for objects the served name",
    health="nothing to ask",
    stages=False,
    packages=("nixl",),
)
EIC_ENV = "REMOTE_EIC_YAML"
FILE_PLUGINS = ("POSIX", "GDS", "GDS_MT", "3FS")


class GivenLayout:
    """Addresses and options of a store that is there; no process of ours."""

    def __init__(self, access: StoreAccess, worker: Callable[[Role, str], WorkerAccess]) -> None:
        self._access, self._worker = access, worker

    def service(self, place: Place) -> Service:
        """There is none."""
        raise AssertionError(place)

    def worker(self, address: str, role: Role, namespace: str) -> WorkerAccess:
        """What the backend's own section says."""
        return self._worker(role, namespace)

    def access(self) -> StoreAccess:
        """The given address."""
        return self._access


def aibrix(ground: Ground) -> GivenLayout:
    """AIBrix reads everything from ``AIBRIX_KV_CACHE_OL_*`` variables."""
    store = ground.topology.store
    assert isinstance(store, AibrixStore)
    prefix = "AIBRIX_KV_CACHE_OL_"
    env = {f"{prefix}L1_CACHE_ENABLED": "0", f"{prefix}L2_CACHE_BACKEND": store.l2_backend}
    if store.remote is not None:
        host, _, port = store.remote.rpartition(":")
        env[f"{prefix}{store.l2_backend}_REMOTE_ADDR"] = host
        env[f"{prefix}{store.l2_backend}_REMOTE_PORT"] = port
    env |= {f"{prefix}{key}": value for key, value in store.options.items()}

    def worker(role: Role, namespace: str) -> WorkerAccess:
        # AIBrix writes it in lower case.
        return WorkerAccess({}, {f"{prefix}L2_CACHE_NAMESPACE": namespace.lower()} | env)

    access = StoreAccess(
        "aibrix", "unknown", tcp=(store.remote,) if store.remote else (), where="store.remote"
    )
    return GivenLayout(access, worker)


def eic(ground: Ground) -> GivenLayout:
    """EIC reads a YAML file; JSON is YAML."""
    store = ground.topology.store
    assert isinstance(store, EicStore)

    def worker(role: Role, namespace: str) -> WorkerAccess:
        path = f"{ground.folder}/eic-{role}.yaml"
        own = {"eic_namespace": namespace, "eic_log_dir": f"{ground.folder}/logs"}
        text = json.dumps(own | store.config, indent=1) + "\n"
        return WorkerAccess({}, {EIC_ENV: path}, {path: text})

    return GivenLayout(StoreAccess("eic", "unknown", where="store.config"), worker)


def simm(ground: Ground) -> GivenLayout:
    """SiMM takes its manager's address as an option.

    No tag: ``batch_exists`` looks without it for what was written with it (sglang 0.5.23
    ``hicache_simm.py:322-349, 495-518``).
    """
    store = ground.topology.store
    assert isinstance(store, SimmStore)
    options: dict[str, Any] = {
        "manager_address": store.manager,
        "clnt_threadpool_size": store.clnt_threadpool_size,
    }
    access = StoreAccess("simm", "unknown", tcp=(store.manager,), where="store.manager")
    return GivenLayout(access, lambda role, namespace: WorkerAccess(options))


def nixl(ground: Ground) -> GivenLayout:
    """NIXL takes its plugin as an option and its folder from a variable."""
    store = ground.topology.store
    assert isinstance(store, NixlStore)
    own: dict[str, Any] = {"active": True}
    if store.bucket is not None:
        own["bucket"] = store.bucket
    options: dict[str, Any] = {
        "plugin": {store.plugin.lower(): own},
        "use_direct_io": store.direct_io,
    }

    def worker(role: Role, namespace: str) -> WorkerAccess:
        if store.plugin not in FILE_PLUGINS:
            return WorkerAccess(options)
        folder = f"{(store.path or '').rstrip('/')}/{namespace}"
        return WorkerAccess(
            options, {"SGLANG_HICACHE_NIXL_BACKEND_STORAGE_DIR": folder}, folders=(folder,)
        )

    return GivenLayout(StoreAccess("nixl", "unknown", where="store.path"), worker)


def no_page_objects(shape: PageShape, store: object) -> PageObjects:
    """Pages that nobody but a worker can be asked for."""
    return PageObjects("", (), known=False)
