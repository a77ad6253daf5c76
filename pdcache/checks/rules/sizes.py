"""Rules on layouts, chunks and segments."""

from __future__ import annotations

from collections.abc import Iterable

from pdcache.checks.finding import Finding
from pdcache.checks.queries import DIRECT, pair_yaml
from pdcache.checks.rule import Subject, finding, rule
from pdcache.topology.schema import WORKER_ROLES, Role
from pdcache.topology.settings import ranks
from pdcache.topology.stores import MooncakeStore

MIN_SEGMENT_BYTES = 16 << 20


@rule(
    "layout-switch",
    "SGLang switches an impossible pair with a warning in its log only "
    "(sglang 0.5.23 arg_groups/hicache_hook.py)",
)
def layout_switch(subject: Subject) -> Iterable[Finding]:
    """A layout or io backend that SGLang will change is named."""
    for role in (Role.PREFILL, Role.DECODE):
        for key in ("hicache_mem_layout", "hicache_io_backend"):
            asked, resolved = subject.asked[role].get(key), subject.resolved[role].get(key)
            if asked and resolved and asked.value != resolved.value:
                runs = {own[key].value for own in subject.resolved.values() if key in own}
                own = subject.resolved[role]
                pair = own["hicache_io_backend"].value, own["hicache_mem_layout"].value
                yield finding(
                    "layout-switch",
                    "warning",
                    asked.path,
                    f"{role} asks for {asked.value}, but SGLang runs {resolved.value}: "
                    f"{resolved.reason}.",
                    resolved.value,
                    fix=pair_yaml(subject, pair) if len(runs) > 1 else None,
                )


@rule(
    "layout-support",
    "accepted by the command line, but dies at start or at first use (sglang 0.5.23, run)",
)
def layout_support(subject: Subject) -> Iterable[Finding]:
    """The pair of layout and io backend exists."""
    for role in (Role.PREFILL, Role.DECODE):
        own = subject.resolved[role]
        if "hicache_mem_layout" not in own:
            continue
        layout, io = own["hicache_mem_layout"], own["hicache_io_backend"]
        if layout.value == "page_head" and io.value == "direct":
            yield finding(
                "layout-support",
                "error",
                io.path,
                f"{role}: page_head needs io kernel; with direct the scheduler dies at first use.",
                "kernel",
            )
        for setting, ascend in ((layout, "page_first_kv_split"), (io, "kernel_ascend")):
            if setting.value == ascend:
                yield finding(
                    "layout-support",
                    "error",
                    setting.path,
                    f"{role}: {layout.value} with {io.value} exists on Ascend NPUs only.",
                    fix=pair_yaml(subject, DIRECT),
                )


@rule("chunk-size", "SGLang refuses a chunk that is no multiple of the page size")
def chunk_size(subject: Subject) -> Iterable[Finding]:
    """chunked_prefill_size is a multiple of page_size."""
    chunk = subject.asked[Role.PREFILL].get("chunked_prefill_size")
    page = int(subject.asked[Role.PREFILL]["page_size"].value)
    if chunk is not None and chunk.value is not None and chunk.value % page:
        yield finding(
            "chunk-size",
            "error",
            "prefill.chunked_prefill_size",
            f"{chunk.value} tokens is no multiple of the page size {page}.",
            max(page, chunk.value // page * page),
        )


@rule("segment-size", "Mooncake refuses a smaller segment (mooncake 0.3.13)")
def segment_size(subject: Subject) -> Iterable[Finding]:
    """A segment has at least 16 MiB."""
    store = subject.topology.store
    if not isinstance(store, MooncakeStore):
        return
    ranks_of = {role: ranks(subject.topology.worker(role)) for role in WORKER_ROLES}
    sizes = {"segment_gb": store.segment_gb * 1e9 if store.master is None else 0}
    sizes["worker_segment_gb"] = store.worker_segment_gb * 1e9 / max(ranks_of.values())
    for key, size in sizes.items():
        if 0 < size < MIN_SEGMENT_BYTES:
            yield finding(
                "segment-size",
                "error",
                f"store.{key}",
                f"a segment of {size / 1e6:.1f} MB; Mooncake needs 16 MiB or more.",
                1.0 if key == "segment_gb" else float(max(ranks_of.values())),
            )
