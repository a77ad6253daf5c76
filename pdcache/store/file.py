"""A shared folder as L3: one file a page.

Facts: sglang 0.5.23 ``mem_cache/hicache_storage.py:720-960`` (HiCacheFile).
"""

from __future__ import annotations

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
from pdcache.topology.stores import FileStore

TRAITS = Traits(
    processes="none",
    sharing="shared path",
    zero_copy=(),
    copied=("layer_first", "page_first", "page_first_direct", "page_head"),
    isolation="a folder of its own",
    health="nothing to ask: the folder is there or it is not",
)


FOLDER_ENV = "SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR"


class FileLayout:
    """No process: a folder."""

    def __init__(self, ground: Ground) -> None:
        store = ground.topology.store
        assert isinstance(store, FileStore)
        self._store = store

    def service(self, place: Place) -> Service:
        """There is none."""
        raise AssertionError(place)

    def worker(self, address: str, role: Role, namespace: str) -> WorkerAccess:
        """The folder, as an option."""
        folder = f"{self._store.path.rstrip('/')}/{namespace}"
        options: dict[str, Any] = {"file_storage_path": folder}
        if self._store.max_size_gb is not None:
            options["max_size"] = int(self._store.max_size_gb * 1e9)
        # The variable wins over the option, also one that a worker happens to inherit.
        return WorkerAccess(options, {FOLDER_ENV: folder}, folders=(folder,))

    def access(self) -> StoreAccess:
        """The files themselves."""
        return StoreAccess(backend="file", presence="files", where="store.path")


def page_objects(shape: PageShape, store: FileStore) -> PageObjects:
    """Paths of one page's files.

    Source: sglang 0.5.23 ``hicache_storage.py:752-776, 945``.
    """
    stages = [f"_{shape.pp}_{stage}" for stage in range(shape.pp)] if shape.pp > 1 else [""]
    ranks = [""] if shape.is_mla else [f"_{rank}_{shape.tp}" for rank in range(shape.tp)]
    return PageObjects(
        f"{store.path.rstrip('/')}/{shape.namespace}/",
        tuple(f"_{shape.model_name}{rank}{stage}.bin" for stage in stages for rank in ranks),
    )
