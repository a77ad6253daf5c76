"""Rules on what a storage backend can take: layouts and kinds of models."""

from __future__ import annotations

from collections.abc import Iterable

from pdcache.checks.finding import Finding
from pdcache.checks.queries import DIRECT, KERNEL, is_mla, pair_yaml, store_roles, traits
from pdcache.checks.rule import Subject, finding, rule
from pdcache.store.hf3fs import mocks
from pdcache.topology.setting import Setting
from pdcache.topology.stores import Hf3fsStore

ASCEND_LAYOUT = "page_first_kv_split"
"""Rule `layout-support` speaks of it, whatever the backend."""


@rule(
    "backend-layout",
    "no backend but Mooncake is checked by SGLang before use: hf3fs dies with UnboundLocalError "
    "under page_head, simm asserts (sglang 0.5.23 mem_cache/storage/backend_factory.py:194-206, "
    "simm/hicache_simm.py:246)",
)
def backend_layout(subject: Subject) -> Iterable[Finding]:
    """The layout that a role runs with is one that the backend takes."""
    backend, served = subject.topology.store.backend, traits(subject).layouts
    for layout in _layouts(subject):
        if layout.value in served or layout.value == ASCEND_LAYOUT:
            continue
        yield finding(
            "backend-layout",
            "error",
            layout.path,
            f"{backend} cannot store pages of layout {layout.value}; it takes {', '.join(served)}.",
            fix=pair_yaml(subject, _best_pair(subject)),
        )


@rule(
    "mla-layout",
    "the host pool of MLA models has no page_head: ValueError at start "
    "(sglang 0.5.23 mem_cache/pool_host/mla.py:1157-1211)",
)
def mla_layout(subject: Subject) -> Iterable[Finding]:
    """An MLA model is not kept by heads."""
    if not any(is_mla(subject, role) for role in store_roles(subject)):
        return
    for layout in _layouts(subject):
        if layout.value == "page_head":
            yield finding(
                "mla-layout",
                "error",
                layout.path,
                "an MLA model has no KV heads, so the server dies at start with page_head.",
                fix=pair_yaml(subject, _best_pair(subject)),
            )


@rule(
    "backend-mla",
    "AIBrix raises NotImplementedError for MLA models at start (sglang 0.5.23 "
    "mem_cache/storage/aibrix_kvcache/aibrix_kvcache_storage.py:39-65)",
)
def backend_mla(subject: Subject) -> Iterable[Finding]:
    """An MLA model is kept in a backend that serves MLA."""
    mla = any(is_mla(subject, role) for role in store_roles(subject))
    if mla and not traits(subject).mla:
        yield finding(
            "backend-mla",
            "error",
            "store.backend",
            f"{subject.topology.store.backend} does not store KV of MLA models; the servers die "
            "at start.",
            fix="# remove store.backend and its keys, and use another store, such as\n"
            "# store: {backend: mooncake}",
        )


@rule(
    "backend-package",
    "a server whose backend cannot be imported dies after half a minute of start "
    "(sglang 0.5.23 mem_cache/storage/backend_factory.py)",
)
def backend_package(subject: Subject) -> Iterable[Finding]:
    """The Python packages of the storage and transfer backend are there."""
    topology, missing = subject.topology, subject.facts.missing
    store = topology.store
    mocked = isinstance(store, Hf3fsStore) and mocks(store, topology.device)
    lacks = [] if mocked else sorted(missing & set(traits(subject).packages))
    if lacks:
        yield finding(
            "backend-package",
            "error",
            "store.backend",
            f"{store.backend} needs the package {', '.join(lacks)}, which is not installed.",
            fix=f"# remove store.backend and use another, or install {', '.join(lacks)}",
        )
    if topology.transfer.backend == "nixl" and "nixl" in missing:
        yield finding(
            "backend-package",
            "error",
            "transfer.backend",
            "transfer over nixl needs the package nixl, which is not installed.",
            "mooncake",
        )


@rule(
    "layout-copies",
    "a layout that is not one piece a page is copied on its way to L3 and back "
    "(sglang 0.5.23 managers/cache_controller.py:1130-1153)",
)
def layout_copies(subject: Subject) -> Iterable[Finding]:
    """A layout that somebody chose goes to the store without copies, where there is such a one."""
    own, store = traits(subject), subject.topology.store
    if not own.zero_copy or (isinstance(store, Hf3fsStore) and store.mock_client):
        return
    for layout in _layouts(subject):
        if layout.value in own.copied and layout.origin in ("user", "rule"):
            yield finding(
                "layout-copies",
                "info",
                layout.path,
                f"{store.backend} copies every page of layout {layout.value}; pages of "
                f"{' and '.join(own.zero_copy)} go as they lie in L2.",
                fix=pair_yaml(subject, _best_pair(subject)),
            )


def _layouts(subject: Subject) -> Iterable[Setting]:
    """The layouts that reach L3; one that both roles share is there once."""
    found = [subject.resolved[role]["hicache_mem_layout"] for role in store_roles(subject)]
    return {(layout.path, layout.value): layout for layout in found}.values()


def _best_pair(subject: Subject) -> tuple[str, str]:
    zero_copy = traits(subject).zero_copy
    return DIRECT if not zero_copy or DIRECT[1] in zero_copy else KERNEL
