"""Rules on the mode and the flags that go with it or against it."""

from __future__ import annotations

from collections.abc import Iterable

from pdcache.checks.finding import Finding
from pdcache.checks.queries import flags
from pdcache.checks.rule import Subject, finding, rule
from pdcache.sglang.server_args import canonical
from pdcache.topology.hicache import storage_options
from pdcache.topology.schema import Mode, Role

OWNED = frozenset(
    [
        "model_path",
        "tokenizer_path",
        "served_model_name",
        "dtype",
        "page_size",
        "tp_size",
        "pp_size",
        "dp_size",
        "attn_dp_size",
        "ep_size",
        "nnodes",
        "node_rank",
        "dist_init_addr",
        "kv_events_config",
        "radix_eviction_policy",
        "host",
        "port",
        "device",
        "disaggregation_mode",
        "disaggregation_transfer_backend",
        "disaggregation_bootstrap_port",
        "disaggregation_ib_device",
        "disaggregation_decode_enable_offload_kvcache",
        "disaggregation_decode_enable_radix_cache",
        "disaggregation_decode_retraction_backup",
        "hicache_host_memory_fraction",
        "hicache_host_memory_mode",
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
        "enable_dp_attention",
        "enable_metrics",
        "enable_cache_report",
    ]
)


@rule("owned-flag", "a flag that pdcache derives for all workers would differ on one of them")
def owned_flag(subject: Subject) -> Iterable[Finding]:
    """``args`` holds no flag that has a key of its own."""
    for role in (Role.PREFILL, Role.DECODE):
        for name in subject.topology.worker(role).args:
            if canonical(name) in OWNED:
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
    "(sglang issue 17193; sglang 0.5.23 speculative/spec_info.py:102, arg_groups/kv_cache_hook.py)",
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
        given = flags(subject, role)
        if flag := given.get("speculative_algorithm"):
            yield finding(
                "mode-flags",
                "error",
                flag.path,
                "speculative decoding hashes token pairs on prefill and single tokens on decode: "
                "nothing that decode offloads is ever found.",
                fix="mode: prefill_only",
            )
        if flag := given.get("enable_hisparse"):
            yield finding(
                "mode-flags",
                "error",
                flag.path,
                "HiSparse keeps decode's KV in a pool of its own, which decode offload does not "
                "know.",
                fix=f"# remove {flag.path}",
            )


@rule(
    "prefetch-threshold",
    "a hit beyond L1/L2 below the threshold is never loaded; no exported "
    "metric tells (sglang 0.5.23 mem_cache/unified_radix_cache.py:2149, 3190)",
)
def prefetch_threshold(subject: Subject) -> Iterable[Finding]:
    """The prefetch threshold is at most what an answer, or in prefill_only a prompt, adds to L3."""
    topology, traffic = subject.topology, subject.topology.traffic
    setting = storage_options(topology)["prefetch_threshold"]
    # SGLang takes one page at least.
    page = max(topology.page_size, int(subject.asked[Role.PREFILL]["page_size"].value))
    longest = None if traffic.prompt_tokens is None else traffic.prompt_tokens // page * page
    # The last token of an answer has no KV; unknown answers may be as short as a page.
    stored = ((traffic.answer_tokens or 1) - 1) // page * page
    if longest is not None and setting.value > max(page, longest):
        yield finding(
            "prefetch-threshold",
            "error",
            setting.path,
            f"with a threshold of {setting.value} tokens a prompt of {traffic.prompt_tokens} is "
            "never read from L3.",
            page,
        )
    elif topology.mode is Mode.FULL_OFFLOAD and setting.value > max(page, stored):
        short = "shorter than that"
        if traffic.answer_tokens is not None:
            short = f"of {traffic.answer_tokens}, which adds {stored} in whole pages,"
        yield finding(
            "prefetch-threshold",
            "error",
            setting.path,
            f"with a threshold of {setting.value} tokens an answer {short} is written to L3 and "
            "never read on a prefill that still holds the prompt: decode offload would gain "
            "nothing there.",
            page,
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
