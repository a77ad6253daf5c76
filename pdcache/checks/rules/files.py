"""Rules on stores made of files: a folder, NIXL, 3FS."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from pdcache.checks.finding import Finding
from pdcache.checks.queries import store_roles
from pdcache.checks.rule import Subject, finding, rule
from pdcache.store.given import FILE_PLUGINS
from pdcache.topology.placement import place
from pdcache.topology.stores import FileStore, Hf3fsStore, NixlStore

OF_ONE_NODE = ("/tmp", "/var/tmp", "/dev/shm", "/run")
"""Folders that every node has for itself."""

SHARED = "/mnt/shared/hicache"
BUCKET_ENV = "AWS_DEFAULT_BUCKET"


@rule(
    "shared-path",
    "a folder that each node has for itself is shared by nobody: no worker finds what one on "
    "another node wrote (sglang 0.5.23 mem_cache/hicache_storage.py:732)",
)
def shared_path(subject: Subject) -> Iterable[Finding]:
    """On several nodes the files of L3 lie in a folder that all of them see."""
    store = subject.topology.store
    if not isinstance(store, FileStore | Hf3fsStore | NixlStore) or store.path is None:
        return
    if isinstance(store, NixlStore) and store.plugin not in FILE_PLUGINS:
        return
    folder = posixpath.normpath(store.path)
    own = [top for top in OF_ONE_NODE if folder == top or folder.startswith(f"{top}/")]
    roles = store_roles(subject)
    places = place(subject.topology, subject.facts.nodes)
    nodes = {spot.node for spot in places if spot.role in roles}
    if own and len(nodes) > 1:
        yield finding(
            "shared-path",
            "error",
            "store.path",
            f"the workers run on {len(nodes)} nodes, and each node has a {own[0]} of its own: "
            "no page is found on another node.",
            SHARED,
        )


@rule(
    "file-growth",
    "SGLang removes no file of L3 without a limit; a full disk loses pages "
    "(sglang 0.5.23 mem_cache/storage/file/lru_file_evictor.py)",
)
def file_growth(subject: Subject) -> Iterable[Finding]:
    """A store of files has a limit."""
    store = subject.topology.store
    if not isinstance(store, FileStore) or "min_free_space" in store.extra:
        return
    if store.max_size_gb is None:
        yield finding(
            "file-growth",
            "warning",
            "store.max_size_gb",
            f"files are added to {store.path} until the disk is full; then pages are lost.",
            100.0,
        )


@rule(
    "nixl-path",
    "a plugin that writes files needs a folder, and OBJ a bucket "
    "(sglang 0.5.23 mem_cache/storage/nixl/nixl_utils.py)",
)
def nixl_path(subject: Subject) -> Iterable[Finding]:
    """NIXL is told where its pages go, and nothing else."""
    store = subject.topology.store
    if not isinstance(store, NixlStore):
        return
    files = store.plugin in FILE_PLUGINS
    envs = [subject.topology.worker(role).env for role in store_roles(subject)]
    if files and store.path is None:
        text = f"plugin {store.plugin} writes files, and no folder is given."
        yield finding("nixl-path", "error", "store.path", text, SHARED)
    if not files and store.bucket is None and not all(env.get(BUCKET_ENV) for env in envs):
        text = f"plugin OBJ needs a bucket, and {BUCKET_ENV} is not set on all that use L3."
        yield finding("nixl-path", "error", "store.bucket", text, "hicache")
    for key, value, used in (("bucket", store.bucket, not files), ("path", store.path, files)):
        if value is not None and not used:
            path = f"store.{key}"
            text = f"plugin {store.plugin} has no use for it; it does nothing."
            yield finding("nixl-path", "error", path, text, fix=f"# remove {path}")


@rule(
    "hf3fs-client",
    "the mock client reads and writes plain files; the real one needs 3FS and its hf3fs_fuse "
    "(sglang 0.5.23 mem_cache/storage/hf3fs/{hf3fs_client,hf3fs_usrbio_client}.py)",
)
def hf3fs_client(subject: Subject) -> Iterable[Finding]:
    """3FS is reached by its own client on GPU machines, by the mock on CPU machines."""
    store, device = subject.topology.store, subject.topology.device
    if not isinstance(store, Hf3fsStore) or store.mock_client is None:
        return
    path = "store.mock_client"
    if store.mock_client and device == "cuda":
        text = "the mock client is for tests: every page is copied through plain file calls."
        yield finding("hf3fs-client", "warning", path, text, False)
    if not store.mock_client and device == "cpu":
        text = "3FS's own client needs hf3fs_fuse, which a CPU machine does not have."
        yield finding("hf3fs-client", "error", path, text, True)


@rule(
    "hf3fs-metadata",
    "the index is keyed by rank alone: two namespaces on one metadata server point into each "
    "other's files (sglang 0.5.23 mem_cache/storage/hf3fs/mini_3fs_metadata_server.py)",
)
def hf3fs_metadata(subject: Subject) -> Iterable[Finding]:
    """A given metadata server is named as one that must serve this store alone."""
    store = subject.topology.store
    if isinstance(store, Hf3fsStore) and store.metadata_server is not None:
        yield finding(
            "hf3fs-metadata",
            "info",
            "store.metadata_server",
            "it must serve this namespace alone: with another it gives out wrong KV, silently. A "
            "restart of it empties the index, and the workers must then be restarted too.",
            fix="# remove store.metadata_server: one is then started for this cluster alone",
        )
