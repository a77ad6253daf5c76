"""Rules on the size of L3."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pdcache.checks.finding import Finding
from pdcache.checks.pools import buffer_only, gigabytes, pools
from pdcache.checks.queries import is_mla
from pdcache.checks.rule import Subject, finding, rule, yaml_at, yaml_text
from pdcache.store.hf3fs import TRAITS as HF3FS
from pdcache.topology.placement import holders
from pdcache.topology.schema import Mode, Role
from pdcache.topology.settings import attention_tp
from pdcache.topology.stores import FileStore, Hf3fsStore, MooncakeStore


@rule(
    "l3-size",
    "every page that enters L2 is written to L3 at once, so an L3 below all L2s drops pages that "
    "an L2 still has, and other workers miss them (sglang pull request 39845)",
)
def l3_size(subject: Subject) -> Iterable[Finding]:
    """L3 is at least as large as the L2s of all prefill workers together."""
    store, rank = subject.topology.store, _rank_bytes(subject)
    if not rank or buffer_only(subject):
        return
    if isinstance(store, MooncakeStore) and store.master is None:
        need, of = rank * _shards(subject), ""
        found = _mooncake(subject, store, need)
    elif isinstance(store, FileStore) and store.max_size_gb is not None:
        # Each rank counts the files it knows.
        need, of, size = rank, " of a rank", store.max_size_gb
        better = yaml_at("store.max_size_gb", gigabytes(need))
        found = ("store.max_size_gb", size, better) if size * 1e9 < need else None
    else:
        return
    if found is not None:
        path, size, fix = found
        yield finding(
            "l3-size",
            "warning",
            path,
            f"L3{of} has {size:.1f} GB and the L2s{of} on all prefill workers {need / 1e9:.1f} GB: "
            "what an L2 holds is dropped from L3, and other workers miss it.",
            fix=fix,
        )


@rule(
    "hf3fs-file",
    "a full file gives its oldest pages to new ones while readers still have their places, who "
    "then read wrong KV (sglang 0.5.23 mem_cache/storage/hf3fs/storage_hf3fs.py, "
    "mini_3fs_metadata_server.py)",
)
def hf3fs_file(subject: Subject) -> Iterable[Finding]:
    """A file of 3FS holds at least a page, and the L2s of all that share it."""
    store, own = subject.topology.store, pools(subject, Role.PREFILL)
    if not isinstance(store, Hf3fsStore) or not own.token_bytes:
        return
    layout = subject.resolved[Role.PREFILL]["hicache_mem_layout"].value
    pieces = 2 if layout in HF3FS.zero_copy and not is_mla(subject, Role.PREFILL) else 1
    page_bytes, shared = own.page * own.token_bytes, _rank_bytes(subject) or 0
    better = gigabytes(max(shared, page_bytes))
    if int(store.file_size_gb * 1e9) // (page_bytes // pieces) < pieces:
        yield finding(
            "hf3fs-file",
            "error",
            "store.file_size_gb",
            f"a file of {store.file_size_gb} GB has no room for a page of "
            f"{page_bytes / 1e9:.3g} GB: every write fails.",
            better,
        )
    elif store.file_size_gb * 1e9 < shared and not buffer_only(subject):
        yield finding(
            "hf3fs-file",
            "warning",
            "store.file_size_gb",
            f"a file of {store.file_size_gb} GB is shared by L2s of {shared / 1e9:.1f} GB: it is "
            "soon full, and then a reader can get the KV of another page.",
            better,
        )


def _mooncake(subject: Subject, store: MooncakeStore, need: float) -> tuple[str, float, str] | None:
    """The key that limits a Mooncake store which is too small, its size, and what is enough."""
    topology = subject.topology
    count = holders(store, len(subject.facts.nodes))
    servers = topology.prefill.workers
    if topology.mode is Mode.FULL_OFFLOAD:
        servers += topology.decode.workers
    memory, given = count * store.segment_gb * 1e9, servers * store.worker_segment_gb * 1e9
    disk = count * store.ssd.size_gb * 1e9 if store.ssd is not None else 0.0
    size, quota = memory + given + disk, store.tenant_quota_gb if store.tenant else None
    better: dict[str, Any] = {}
    if quota is not None and quota * 1e9 < need:
        better["tenant_quota_gb"] = gigabytes(need)
    if 0 < size < need:
        if disk:
            better["ssd"] = {"size_gb": gigabytes((need - memory - given) / count)}
        elif memory:
            better["segment_gb"] = gigabytes((need - given) / count)
        else:
            better["worker_segment_gb"] = gigabytes(need / servers)
    if not better:
        return None
    key = next(iter(better))
    path = "store.ssd.size_gb" if key == "ssd" else f"store.{key}"
    total = size if quota is None else min(size, quota * 1e9)
    return path, total / 1e9, yaml_text({"store": better})


def _rank_bytes(subject: Subject) -> int | None:
    """L2 of one rank of every prefill server and DP replica, which write different pages."""
    asked, own, worker = (
        subject.asked[Role.PREFILL],
        pools(subject, Role.PREFILL),
        subject.topology.prefill,
    )
    if "hicache_size" in asked:
        one = int(asked["hicache_size"].value * 1e9)
    elif own.l2 is not None and own.token_bytes:
        one = own.l2 * own.token_bytes
    else:
        return None
    return one * worker.workers * worker.dp * worker.attn_dp


def _shards(subject: Subject) -> int:
    """Ranks that write a part of their own of every page: under MLA one of each stage."""
    worker = subject.topology.prefill
    return worker.pp * (1 if is_mla(subject, Role.PREFILL) else attention_tp(worker))
