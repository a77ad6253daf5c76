"""Rules on sizes: L2, pages, segments, host memory, GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pdcache.checks.budget import NodeBudget, budget
from pdcache.checks.finding import Finding, Severity
from pdcache.checks.rule import Subject, finding, rule, yaml_text
from pdcache.topology.placement import place
from pdcache.topology.schema import Role, Topology

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
                yield finding(
                    "layout-switch",
                    "warning",
                    asked.path,
                    f"{role} asks for {asked.value}, but SGLang runs {resolved.value}: "
                    f"{resolved.reason}.",
                    resolved.value,
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
        for setting, ascend, instead in (
            (layout, "page_first_kv_split", "page_first_direct"),
            (io, "kernel_ascend", "direct"),
        ):
            if setting.value == ascend:
                yield finding(
                    "layout-support",
                    "error",
                    setting.path,
                    f"{role}: {layout.value} with {io.value} exists on Ascend NPUs only.",
                    instead,
                )


@rule(
    "l2-ratio",
    "L2 smaller than L1 loses prefixes, and the prefetch limit of half of L2 starves "
    "reads from L3 (sglang issues 39444, 26449)",
)
def l2_ratio(subject: Subject) -> Iterable[Finding]:
    """L2 of prefill is larger than L1."""
    ratio = subject.asked[Role.PREFILL].get("hicache_ratio")
    if ratio is None or ratio.value >= 1.5:
        return
    severity: Severity = "error" if ratio.value < 1 else "warning"
    yield finding(
        "l2-ratio",
        severity,
        ratio.path,
        f"L2 is {ratio.value} x L1. Below 1 first-seen prefixes are lost; near 1 one read "
        "from L3 at a time gets memory.",
        2.0,
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
    size = subject.topology.store.segment_gb * 1e9
    if subject.topology.store.master is None and size < MIN_SEGMENT_BYTES:
        yield finding(
            "segment-size",
            "error",
            "store.segment_gb",
            f"a segment of {size / 1e6:.1f} MB; Mooncake needs 16 MiB or more.",
            1.0,
        )


@rule(
    "host-memory",
    "pinned pools of several servers on one node are each checked alone by SGLang "
    "and fail, or are killed, when all have started",
)
def host_memory(subject: Subject) -> Iterable[Finding]:
    """Weights, L1, L2, staging, segments and processes fit into the RAM of every node."""
    for node in budget(subject.topology, subject.facts):
        if node.needed_bytes > node.available_bytes:
            yield finding(
                "host-memory", "error", "hicache.ratio", _too_much(node), fix=_smaller(subject)
            )
        elif node.unknown:
            yield finding(
                "host-memory",
                "info",
                "hicache.size_gb",
                f"node {node.node}: the size of {', '.join(node.unknown)} follows from the GPU's "
                "memory and is not in the budget.",
                100,
            )


@rule("gpus", "Ray would wait for ever for GPUs that do not exist")
def gpus(subject: Subject) -> Iterable[Finding]:
    """On device cuda the nodes have the GPUs the topology asks for."""
    topology = subject.topology
    if topology.device != "cuda":
        return
    used = Counter[int]()
    for spot in place(topology, subject.facts.nodes):
        used[spot.node] += spot.gpus
    have = [node.gpus for node in subject.facts.nodes]
    if any(used[node] > gpus for node, gpus in enumerate(have)):
        yield finding(
            "gpus",
            "warning",
            "device",
            f"the topology needs {used.total()} GPUs, those of a server on one node; the nodes at "
            f"hand have {' + '.join(map(str, have))}; `up` refuses until they are there.",
            "cpu",
        )


def _too_much(node: NodeBudget) -> str:
    largest = sorted(node.parts.items(), key=lambda part: -part[1])[:5]
    text = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in largest)
    return (
        f"node {node.node} needs {node.needed_bytes / 1e9:.1f} GB of "
        f"{node.available_bytes / 1e9:.1f} GB; the largest parts are {text}."
    )


def _smaller(subject: Subject) -> str:
    """Sizes halved until every node fits, or down to the least that make sense."""
    sizes = _sizes(subject, 1)
    for halvings in range(1, 8):
        sizes = _sizes(subject, halvings)
        nodes = budget(_resized(subject.topology, sizes), subject.facts)
        if all(node.needed_bytes <= node.available_bytes for node in nodes):
            break
    return yaml_text(sizes)


def _sizes(subject: Subject, halvings: int) -> dict[str, dict[str, Any]]:
    def less(value: float, least: float) -> float:
        return min(value, max(least, value / (1 << halvings)))

    sizes: dict[str, dict[str, Any]] = {}
    for role in (Role.PREFILL, Role.DECODE):
        own: dict[str, Any] = {}
        asked = subject.asked[role]
        if tokens := asked["max_total_tokens"].value:
            own["max_total_tokens"] = int(less(tokens, 1024))
        if "hicache_size" in asked:
            own["hicache"] = {"size_gb": int(less(asked["hicache_size"].value, 1))}
        if own:
            sizes[role.value] = own
    if subject.topology.store.master is None:
        sizes["store"] = {"segment_gb": round(less(subject.topology.store.segment_gb, 0.5), 3)}
    return sizes


def _resized(topology: Topology, sizes: dict[str, dict[str, Any]]) -> Topology:
    sections = {}
    for name, values in sizes.items():
        section = getattr(topology, name)
        if "hicache" in values:
            hicache = section.hicache.model_copy(update=values["hicache"])
            values = values | {"hicache": hicache}
        sections[name] = section.model_copy(update=values)
    return topology.model_copy(update=sections)
