"""Rules on the mode and the flags that go with it or against it."""

from __future__ import annotations

from collections.abc import Iterable

from pdcache.checks.finding import Finding
from pdcache.checks.rule import Subject, finding, rule
from pdcache.topology.schema import Mode, Role
from pdcache.topology.settings import flag_name, storage_options

OWNED = frozenset(
    [
        "model_path",
        "tokenizer_path",
        "served_model_name",
        "dtype",
        "page_size",
        "tp_size",
        "host",
        "port",
        "device",
        "disaggregation_mode",
        "disaggregation_transfer_backend",
        "disaggregation_bootstrap_port",
        "disaggregation_ib_device",
        "disaggregation_decode_enable_offload_kvcache",
        "enable_hierarchical_cache",
        "hicache_ratio",
        "hicache_size",
        "hicache_io_backend",
        "hicache_mem_layout",
        "hicache_write_policy",
        "hicache_storage_backend",
        "hicache_storage_prefetch_policy",
        "hicache_storage_backend_extra_config",
        "max_total_tokens",
        "max_running_requests",
        "chunked_prefill_size",
        "mem_fraction_static",
        "context_length",
        "enable_metrics",
        "enable_cache_report",
    ]
)


@rule("owned-flag", "a flag that pdcache derives for all workers would differ on one of them")
def owned_flag(subject: Subject) -> Iterable[Finding]:
    """``args`` holds no flag that has a key of its own."""
    for role in (Role.PREFILL, Role.DECODE):
        for name in subject.topology.worker(role).args:
            if flag_name(name) in OWNED:
                yield finding(
                    "owned-flag",
                    "error",
                    f"{role}.args.{name}",
                    f"{name} is set by pdcache from its own key; here it would be given twice.",
                    fix=f"# remove {role}.args.{name} and use the topology's own key",
                )


@rule(
    "mode-flags",
    "flags that work against the mode give zero hits or a crash "
    "(sglang 0.5.23 arg_groups/kv_cache_hook.py; sglang issues 27666, 17193)",
)
def mode_flags(subject: Subject) -> Iterable[Finding]:
    """No flag works against the mode."""
    topology = subject.topology
    if topology.mode is Mode.PREFILL_ONLY and topology.decode.hicache.model_fields_set:
        yield finding(
            "mode-flags",
            "error",
            "decode.hicache",
            "decode has HiCache settings but prefill_only gives decode no HiCache; they would have "
            "no effect.",
            fix="mode: full_offload",
        )
    if topology.mode is not Mode.FULL_OFFLOAD:
        return
    for role in (Role.PREFILL, Role.DECODE):
        for name in topology.worker(role).args:
            flag = flag_name(name)
            if flag == "speculative_algorithm":
                yield finding(
                    "mode-flags",
                    "error",
                    f"{role}.args.{name}",
                    "speculative decoding hashes token pairs on prefill and single tokens on "
                    "decode: nothing that decode offloads is ever found.",
                    fix="mode: prefill_only",
                )
            if flag in ("disaggregation_decode_enable_radix_cache", "enable_hisparse"):
                yield finding(
                    "mode-flags",
                    "error",
                    f"{role}.args.{name}",
                    "decode radix cache and decode offload do not work together.",
                    fix=f"# remove {role}.args.{name}",
                )


@rule("no-effect", "a setting that is accepted and does nothing hides what really happens")
def no_effect(subject: Subject) -> Iterable[Finding]:
    """No key is set on a role that has no use for it."""
    decode = subject.topology.decode
    unused = [
        f"decode.{key}"
        for key in ("bootstrap_port", "chunked_prefill_size")
        if getattr(decode, key) is not None
    ]
    unused += [
        f"decode.hicache.{key}"
        for key in sorted(decode.hicache.model_fields_set)
        if key.startswith("prefetch_")
    ]
    for path in unused:
        yield finding(
            "no-effect",
            "error",
            path,
            "only prefill workers use this; on decode it does nothing.",
            fix=f"# remove {path}, or set {path.replace('decode', 'prefill', 1)}",
        )


@rule(
    "prefetch-threshold",
    "a hit beyond L1/L2 below the threshold is never loaded; no exported "
    "metric tells (sglang 0.5.23 mem_cache/unified_radix_cache.py:3190)",
)
def prefetch_threshold(subject: Subject) -> Iterable[Finding]:
    """In full_offload the prefetch threshold is at most one page."""
    topology = subject.topology
    setting = storage_options(topology)["prefetch_threshold"]
    if topology.mode is Mode.FULL_OFFLOAD and setting.value > topology.page_size:
        yield finding(
            "prefetch-threshold",
            "error",
            setting.path,
            f"with a threshold of {setting.value} tokens an answer shorter than that is written to "
            "L3 and never read on a prefill that still holds the prompt: decode offload would gain "
            "nothing there.",
            topology.page_size,
        )


@rule(
    "write-policy",
    "L3 is written only when a page is copied to L2 "
    "(sglang 0.5.23 mem_cache/unified_radix_cache.py:1803)",
)
def write_policy(subject: Subject) -> Iterable[Finding]:
    """Prefill writes every page through."""
    setting = subject.resolved[Role.PREFILL]["hicache_write_policy"]
    late = {
        "write_back": "only when it is evicted from the device",
        "write_through_selective": "only when it is used a second time",
    }
    if setting.value in late:
        yield finding(
            "write-policy",
            "error",
            setting.path,
            f"{setting.value} writes a page to L3 {late[setting.value]}: other workers find "
            "nothing of a prompt seen once.",
            "write_through",
        )


@rule("prefetch-policy", "best_effort stops reading as soon as the request could run")
def prefetch_policy(subject: Subject) -> Iterable[Finding]:
    """best_effort is named as a choice that loses hits."""
    setting = subject.resolved[Role.PREFILL]["hicache_storage_prefetch_policy"]
    if setting.value == "best_effort":
        yield finding(
            "prefetch-policy",
            "warning",
            setting.path,
            "best_effort gives up L3 reads when the scheduler is free; on an idle prefill most "
            "hits are lost.",
            "wait_complete",
        )
