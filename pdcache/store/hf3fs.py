"""3FS as L3: a file a rank, and a metadata server that knows which page is where.

Facts: sglang 0.5.23 ``mem_cache/storage/hf3fs/storage_hf3fs.py`` (configuration file, keys) and
``mini_3fs_metadata_server.py`` (its HTTP routes).
"""

from __future__ import annotations

import json

from pdcache import sglang_cpu
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
from pdcache.topology.stores import Hf3fsStore

TRAITS = Traits(
    processes="a metadata server, unless one is given",
    sharing="cluster",
    zero_copy=("page_first", "page_first_direct"),
    copied=("layer_first",),
    isolation="the file's name; the metadata server belongs to one namespace",
    health="the metadata server answers GET /openapi.json",
    stages=False,
    packages=("hf3fs_fuse",),
)
CONFIG_ENV = "SGLANG_HICACHE_HF3FS_CONFIG_PATH"
HEALTH = "/openapi.json"
"""The only GET route of the metadata server, FastAPI's own."""
MODULE = "sglang.srt.mem_cache.storage.hf3fs.mini_3fs_metadata_server"


def sglang_environment(device: str) -> dict[str, str]:
    """The metadata server imports sglang and so needs the CPU lane on a CPU machine."""
    if device != "cpu":
        return {}
    path = {"PYTHONPATH": str(sglang_cpu.pythonpath_folder())}
    return sglang_cpu.worker_environment() | path


def mocks(store: Hf3fsStore, device: str) -> bool:
    """Whether workers use SGLang's mock client; unless said otherwise on a CPU machine only."""
    return device == "cpu" if store.mock_client is None else store.mock_client


class Hf3fsLayout:
    """The metadata server of one plan, or one that is given."""

    def __init__(self, ground: Ground) -> None:
        store = ground.topology.store
        assert isinstance(store, Hf3fsStore)
        self._store, self._ground = store, ground
        self._port, self._url = 0, store.metadata_server or ""
        if store.metadata_server is None:
            ports = ground.ports
            self._port = ports.given(store.port, "store.port") if store.port else ports.service()
            self._url = f"http://{ground.addresses[0]}:{self._port}"

    def service(self, place: Place) -> Service:
        """The metadata server."""
        host = self._ground.addresses[place.node]
        return Service(
            argv=(self._ground.python, "-m", MODULE, "--host", host, "--port", str(self._port)),
            env=sglang_environment(self._ground.topology.device),
            ports={"http": self._port},
            wave=0,
            url=self._url,
            health_path=HEALTH,
            imports_sglang=True,
        )

    def worker(self, address: str, role: Role, namespace: str) -> WorkerAccess:
        """A configuration file, its variable, and the folder of the rank files."""
        store = self._store
        config = {
            "file_path_prefix": f"{store.path.rstrip('/')}/{namespace}/hicache",
            "file_size": int(store.file_size_gb * 1e9),
            "numjobs": store.numjobs,
            "entries": store.entries,
            "client_timeout": store.client_timeout_s,
            "metadata_server_url": self._url,
        }
        path = f"{self._ground.folder}/hf3fs-{role}.json"
        mocked = mocks(store, self._ground.topology.device)
        return WorkerAccess(
            options={"use_mock_hf3fs_client": True} if mocked else {},
            env={CONFIG_ENV: path},
            files={path: json.dumps(config, indent=1) + "\n"},
            folders=(f"{store.path.rstrip('/')}/{namespace}",),
        )

    def access(self) -> StoreAccess:
        """The metadata server, which tells where pages are."""
        url = self._url.rstrip("/")
        return StoreAccess(
            backend="hf3fs",
            presence="hf3fs",
            health_urls=(f"{url}{HEALTH}",),
            urls=(url,),
            where="store.metadata_server",
        )


def page_objects(shape: PageShape, store: Hf3fsStore) -> PageObjects:
    """Keys of one page as the metadata server knows them, for each rank the same.

    Under MLA all ranks are rank 0. Source: sglang 0.5.23 ``storage_hf3fs.py:179-182, 618-626``.
    """
    if shape.is_mla:
        return PageObjects("", ("",))
    halves = ("-k", "-v") if shape.layout in TRAITS.zero_copy else ("",)
    return PageObjects("", halves, ranks=shape.tp)
