"""The section `store`: one model a storage backend, so that each knows its own keys only.

The words are those of the backends' own configuration in sglang 0.5.23 ``mem_cache/storage/``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

Port = Annotated[int, Field(ge=1, le=65535)]
Folder = Annotated[str, Field(pattern=r"^/", max_length=512)]
"""An absolute path, the same on every node."""

HostPort = Annotated[str, Field(pattern=r"^\[?[^\s,/]+?\]?:\d{1,5}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Store(_Section):
    namespace: str | None = Field(
        None,
        pattern=r"^\w[\w.-]*$",
        description="keeps this store's pages apart from those of others; derived from all that "
        "shapes the bytes of a page when unset",
    )
    extra: dict[str, Any] = Field(
        default_factory=dict,
        description="further keys of --hicache-storage-backend-extra-config, as the backend takes "
        "them",
    )


class Ssd(_Section):
    """Where Mooncake's segment holders put what leaves memory."""

    path: Folder = Field(description="folder on every holder's node; a subfolder a holder is made")
    size_gb: float = Field(gt=0, description="disk a holder may use, GB")


class Ha(_Section):
    """Mooncake masters that take over from each other, with etcd and an operation log."""

    masters: int = Field(2, ge=2, le=9, description="master processes; one leads")
    etcd: HostPort | None = Field(
        None, description="host:port of a running etcd; unset: one is started beside the masters"
    )


class MooncakeStore(_Store):
    """L3: a Mooncake master and the processes that hold its segments."""

    backend: Literal["mooncake"] = "mooncake"
    holders: int | None = Field(
        None, ge=0, le=4096, description="segment holder processes; unset: one on each node"
    )
    segment_gb: float = Field(4.0, gt=0, description="memory a holder gives to the store, GB")
    worker_segment_gb: float = Field(
        0.0,
        ge=0,
        description="memory each SGLang server gives to the store, GB, shared by its ranks; those "
        "pages die with the server",
    )
    protocol: Literal["tcp", "rdma"] | None = Field(
        None, description="unset: tcp on a CPU machine, rdma on CUDA"
    )
    device: str = Field(
        "", description="RDMA device names for protocol rdma, or JSON from rank to names"
    )
    master: HostPort | None = Field(
        None, description="host:port of a running master; then no store process is started"
    )
    port: Port | None = Field(None, description="master RPC; +1 for each further master")
    metrics_port: Port | None = Field(
        None, description="master HTTP, of a given master too; +1 for each further master"
    )
    ssd: Ssd | None = Field(None, description="lets holders move pages to disk")
    ha: Ha | None = Field(None, description="several masters; unset: one, whose death loses L3")
    tenant: str | None = Field(
        None, pattern=r"^[\w.-]+$", description="Mooncake tenant with a quota of its own"
    )
    tenant_quota_gb: float | None = Field(
        None, gt=0, description="memory of the tenant; needed when the master is started here, GB"
    )
    tp_lcm_size: int | None = Field(
        None,
        ge=1,
        description="common multiple of the TP sizes of all workers; with layout page_head it "
        "lets workers of unequal TP share pages",
    )


class Hf3fsStore(_Store):
    """L3: files on 3FS, with a metadata server that knows which page is where."""

    backend: Literal["hf3fs"]
    path: Folder = Field(description="folder on 3FS, mounted on every node; files a rank are made")
    file_size_gb: float = Field(1024.0, gt=0, description="size of each rank's file, GB")
    numjobs: int = Field(16, ge=1, description="threads a rank that read and write")
    entries: int = Field(8, ge=1, description="requests in flight a thread")
    client_timeout_s: float = Field(5.0, gt=0)
    metadata_server: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="URL of a running metadata server; unset: one is started",
    )
    port: Port | None = Field(None, description="of the metadata server that is started")
    mock_client: bool | None = Field(
        None, description="SGLang's client over plain files; unset: on a CPU machine only"
    )


class FileStore(_Store):
    """L3: a file a page in a folder that every node sees."""

    backend: Literal["file"]
    path: Folder = Field(description="folder, shared by all nodes; a subfolder a namespace is made")
    max_size_gb: float | None = Field(
        None,
        gt=0,
        description="oldest files beyond this are removed, counted by each rank for the files it "
        "knows; unset: grows for ever",
    )


class NixlStore(_Store):
    """L3 through a NIXL plugin: files (POSIX, GDS, 3FS) or objects (S3)."""

    backend: Literal["nixl"]
    plugin: Literal["POSIX", "GDS", "GDS_MT", "3FS", "OBJ"] = "POSIX"
    path: Folder | None = Field(
        None, description="folder that every node sees, for plugins that write files"
    )
    bucket: str | None = Field(None, description="bucket, for plugin OBJ")
    direct_io: bool = Field(False, description="O_DIRECT")


class AibrixStore(_Store):
    """L3: AIBrix KVCache in front of a distributed cache that is running already."""

    backend: Literal["aibrix"]
    l2_backend: str = Field("PRIS", description="AIBrix's own name of the cache behind it")
    remote: HostPort | None = Field(None, description="host:port of that cache")
    options: dict[str, str] = Field(
        default_factory=dict, description="further AIBRIX_KV_CACHE_OL_* variables, without prefix"
    )


class EicStore(_Store):
    """L3: EIC (Elastic Instant Cache), running already."""

    backend: Literal["eic"]
    config: dict[str, Any] = Field(
        min_length=1,
        description="content of the file that REMOTE_EIC_YAML names: remote_url, eic_instance_id …",
    )


class SimmStore(_Store):
    """L3: SiMM, whose manager and data servers are running already."""

    backend: Literal["simm"]
    manager: HostPort = Field(description="host:port of the cluster manager")
    clnt_threadpool_size: int = Field(10, ge=1)


class DynamicStore(_Store):
    """L3: a class of your own, loaded by SGLang's backend factory."""

    backend: Literal["dynamic"]
    backend_name: str = Field(description="name in SGLang's log and metrics")
    module_path: str = Field(
        pattern=r"^\w+(\.\w+)*$", description="module that holds the class, as imported"
    )
    class_name: str = Field(pattern=r"^\w+$")
    interface_v1: bool = Field(
        False, description="the class has batch_get_v1 and batch_set_v1 (no copies)"
    )
    code: str | None = Field(
        None,
        description="folder or .py file, relative to the topology, that is sent to every worker; "
        "unset: the module is installed there",
    )
    shares: bool = Field(True, description="what one worker writes, the others can read")


def _backend(value: Any) -> str:
    """A store without `backend` is Mooncake."""
    if isinstance(value, dict):
        return str(value.get("backend", "mooncake"))
    return str(getattr(value, "backend", "mooncake"))


AnyStore = (
    MooncakeStore
    | Hf3fsStore
    | FileStore
    | NixlStore
    | AibrixStore
    | EicStore
    | SimmStore
    | DynamicStore
)
STORES: dict[str, type[BaseModel]] = {
    "mooncake": MooncakeStore,
    "hf3fs": Hf3fsStore,
    "file": FileStore,
    "nixl": NixlStore,
    "aibrix": AibrixStore,
    "eic": EicStore,
    "simm": SimmStore,
    "dynamic": DynamicStore,
}
Store = Annotated[
    Annotated[MooncakeStore, Tag("mooncake")]
    | Annotated[Hf3fsStore, Tag("hf3fs")]
    | Annotated[FileStore, Tag("file")]
    | Annotated[NixlStore, Tag("nixl")]
    | Annotated[AibrixStore, Tag("aibrix")]
    | Annotated[EicStore, Tag("eic")]
    | Annotated[SimmStore, Tag("simm")]
    | Annotated[DynamicStore, Tag("dynamic")],
    Discriminator(_backend),
]
