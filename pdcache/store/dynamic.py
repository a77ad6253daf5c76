"""A class of the user's own as L3, loaded by SGLang's ``dynamic`` backend.

Facts: sglang 0.5.23 ``mem_cache/storage/backend_factory.py:132-165`` (required options, how the
class is called) and ``managers/cache_controller.py:649-667`` (interface_v1).
"""

from __future__ import annotations

from typing import Any

from pdcache.store.backend import Ground, Service, StoreAccess, Traits, WorkerAccess
from pdcache.topology.placement import Place
from pdcache.topology.schema import Role
from pdcache.topology.stores import DynamicStore

TRAITS = Traits(
    processes="none",
    sharing="as its code does",
    zero_copy=("page_first", "page_first_direct", "page_head", "layer_first"),
    copied=(),
    isolation="option `namespace`, which the class has to put into its keys",
    health="nothing to ask",
)


class DynamicLayout:
    """No process: code that every worker imports."""

    def __init__(self, ground: Ground) -> None:
        store = ground.topology.store
        assert isinstance(store, DynamicStore)
        self._store, self._ground = store, ground

    def service(self, place: Place) -> Service:
        """There is none."""
        raise AssertionError(place)

    def worker(self, address: str, role: Role, namespace: str) -> WorkerAccess:
        """The class's name as options, and its code on the import path."""
        store = self._store
        options: dict[str, Any] = {
            "backend_name": store.backend_name,
            "module_path": store.module_path,
            "class_name": store.class_name,
            "interface_v1": int(store.interface_v1),
            "namespace": namespace,
        }
        if store.code is None:
            return WorkerAccess(options)
        folder = f"{self._ground.folder}/code"
        files = {f"{folder}/{name}": text for name, text in self._ground.code.items()}
        return WorkerAccess(options, {"PYTHONPATH": folder}, files)

    def access(self) -> StoreAccess:
        """Nothing but the class itself knows what it holds."""
        return StoreAccess("dynamic", "unknown", where="store.module_path")
