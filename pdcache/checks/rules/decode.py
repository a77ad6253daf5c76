"""Rules on decode offload and what works against it."""

from __future__ import annotations

from collections.abc import Iterable

from pdcache.checks.finding import Finding
from pdcache.checks.rule import Subject, finding, rule
from pdcache.topology.schema import Mode, Role


@rule(
    "decode-radix",
    "decode's radix cache and decode offload crashed together, and finished requests do not enter "
    "its tree (sglang issues 27666, 25836, 27687; sglang 0.5.23 checks nothing)",
)
def decode_radix(subject: Subject) -> Iterable[Finding]:
    """Decode that offloads keeps no radix cache."""
    topology = subject.topology
    if topology.mode is Mode.FULL_OFFLOAD and topology.decode.radix_cache:
        yield finding(
            "decode-radix",
            "error",
            "decode.radix_cache",
            "decode's radix cache and decode offload do not work together.",
            False,
        )


@rule(
    "retraction-backup",
    "decode offload and host_pool both build a host pool; SGLang raises ValueError "
    "(sglang 0.5.23 arg_groups/kv_cache_hook.py:408-413)",
)
def retraction_backup(subject: Subject) -> Iterable[Finding]:
    """Decode that offloads keeps retracted requests elsewhere than in a host pool."""
    topology = subject.topology
    if topology.mode is Mode.FULL_OFFLOAD and topology.decode.retraction_backup == "host_pool":
        yield finding(
            "retraction-backup",
            "error",
            "decode.retraction_backup",
            "SGLang refuses host_pool with decode offload; the server dies at start.",
            "cpu_tensor",
        )


@rule(
    "offload-stride",
    "decode offloads whole strides only, of whole pages "
    "(sglang 0.5.23 disaggregation/decode_kvcache_offload_manager.py:61-67, 215)",
)
def offload_stride(subject: Subject) -> Iterable[Finding]:
    """Decode offloads page by page."""
    stride, mode = subject.topology.decode.offload_stride, subject.topology.mode
    page = int(subject.resolved[Role.DECODE]["page_size"].value)
    if mode is not Mode.FULL_OFFLOAD or stride is None or stride == page:
        return
    if stride < page:
        text = f"SGLang takes a page of {page} tokens in place of a stride of {stride}."
    else:
        taken = stride // page * page
        text = f"SGLang takes {taken} tokens, whole pages. " if taken != stride else ""
        text += f"Up to {taken - 1} tokens at the end of every answer are not written to L3."
    yield finding("offload-stride", "warning", "decode.offload_stride", text, page)


@rule(
    "buffer-only",
    "SGLang refuses buffer_only on decode (sglang 0.5.23 arg_groups/hicache_hook.py:289-296)",
)
def buffer_only(subject: Subject) -> Iterable[Finding]:
    """Decode's host memory, which only stages, has no mode."""
    if subject.topology.decode.hicache.host_memory_mode == "buffer_only":
        path = "decode.hicache.host_memory_mode"
        yield finding(
            "buffer-only",
            "error",
            path,
            "decode's host memory only stages pages on their way to L3; buffer_only is for "
            "prefill, and SGLang refuses it here.",
            fix=f"# remove {path}, or set prefill.hicache.host_memory_mode",
        )
