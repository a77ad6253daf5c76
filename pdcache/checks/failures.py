"""Failures that users of the field reported as silent, and what catches each before or at `up`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownFailure:
    """One reported failure.

    Attributes:
        reported: where it was told of.
        symptom: what its user saw.
        rules: the rules of `check` that catch it.
        canary: the canary of the proof that catches it, by its name.
        otherwise: what else keeps it from happening.
    """

    reported: str
    symptom: str
    rules: tuple[str, ...] = ()
    canary: str | None = None
    otherwise: str = ""


AFTER_FLUSH = "same prompt after a flush"
ON_ANOTHER = "same prompt on another prefill"
HOT_ANSWER = "short answer on a hot prompt"
FLUSHED_ANSWER = "prompt and answer after a flush"

KNOWN_FAILURES = (
    KnownFailure(
        "sglang 12092",
        "pages are written to the store and never read back",
        ("prefetch-threshold", "prefetch-policy", "prefetch-timeout"),
        AFTER_FLUSH,
    ),
    KnownFailure(
        "Mooncake 854; sglang PR 12740",
        "Mooncake is not configured on one role: nothing is written, and it goes on",
        canary=HOT_ANSWER,
        otherwise="the plan gives every worker its store options, as inline JSON",
    ),
    KnownFailure(
        "sglang 27666, 25836, 27687",
        "decode radix cache with decode offload: a crash, a negative protected size",
        ("decode-radix",),
    ),
    KnownFailure(
        "sglang 17193",
        "EAGLE hashes token pairs: no hit across roles",
        ("mode-flags",),
        HOT_ANSWER,
    ),
    KnownFailure(
        "sglang 31600, 28771, 30393",
        "speculative decoding accepts less after a hit in L3, as draft KV is not there",
        ("speculative",),
    ),
    KnownFailure(
        "sglang 27010",
        "PD with pipeline parallelism: backups work, prefetch never starts",
        ("pp-prefetch",),
        AFTER_FLUSH,
    ),
    KnownFailure(
        "sglang 23457",
        "a server on several nodes registers one local hostname for all",
        otherwise="the plan sets MOONCAKE_LOCAL_HOSTNAME and SGLANG_HOST_IP on each node",
    ),
    KnownFailure(
        "sglang 24758, 24794, 31920",
        "two models, or two versions of one, share keys: wrong KV",
        ("served-name", "model-files"),
        otherwise="the namespace holds the digest of the weights",
    ),
    KnownFailure(
        "sglang 38362",
        "the KV dtype is in no key: pages of another dtype are read",
        ("dtype", "kv-args"),
        otherwise="the namespace holds the dtype",
    ),
    KnownFailure(
        "Mooncake's HiCache README",
        "another memory layout or io backend under one key: wrong tokens without an error",
        ("layout", "layout-switch"),
        FLUSHED_ANSWER,
        "the namespace holds layout and io backend",
    ),
    KnownFailure(
        "sglang 39444, 33984; Mooncake 3317",
        "L2 smaller than L1: first-seen prefixes are lost, the hit rate falls with the rounds",
        ("l2-ratio",),
    ),
    KnownFailure(
        "sglang 26449, 15450",
        "hicache_ratio 1.0: the prefetch limit switches reads from L3 off",
        ("l2-ratio", "prefetch-limit"),
        AFTER_FLUSH,
    ),
    KnownFailure(
        "sglang 29034, 30581, 5372, PR 10377, PR 40135; InferenceX PR 2777",
        "sizes are per rank and not the whole bill: out of host memory",
        ("host-memory", "staging"),
    ),
    KnownFailure(
        "sglang 14885, 21395, 21678",
        "PD with Mooncake over TCP hangs or dies where RDMA was assumed",
        ("rdma", "ib-device"),
        AFTER_FLUSH,
    ),
    KnownFailure(
        "sglang 16808, 20732",
        "decode's extra config is no dict, or offload has no storage backend",
        ("owned-flag", "owned-option"),
    ),
    KnownFailure(
        "sglang 40125",
        "a bootstrap room used twice kills both schedulers",
        otherwise="smg makes the rooms; the proof draws 63-bit ones",
    ),
    KnownFailure(
        "sglang 26066, 7211",
        "prefill picks the DP rank by room: the turns of a dialogue scatter",
        ("dp-affinity",),
    ),
    KnownFailure(
        "sglang 14439, PR 14474",
        "unequal page sizes are noticed at the first request",
        ("page-size",),
    ),
    KnownFailure(
        "sglang mooncake_store.py (no TP size in keys); llm-d 2433",
        "unequal TP on one store: a rank reads the heads of another",
        ("tp", "tp-heads"),
        FLUSHED_ANSWER,
    ),
    KnownFailure(
        "sglang 17018",
        "the tail of an answer below one page or stride is never stored",
        ("offload-stride", "large-page"),
    ),
    KnownFailure(
        "sglang unified_radix_cache.py (write policies)",
        "write_back: a prompt seen once never reaches L3, and no other prefill finds it",
        ("write-policy",),
        ON_ANOTHER,
    ),
    KnownFailure(
        "sglang storage_hf3fs.py",
        "hf3fs without a metadata server: workers write over each other's pages",
        otherwise="a metadata server is started, or has to be given",
    ),
    KnownFailure(
        "sglang storage_hf3fs.py, hicache_nixl.py, eic_storage.py",
        "pipeline stages share keys: stage 1 reads the KV of stage 0",
        ("pipeline-keys",),
    ),
    KnownFailure(
        "sglang hicache_simm.py",
        "SiMM with extra_backend_tag: every lookup misses",
        ("simm-tag",),
    ),
    KnownFailure(
        "Mooncake 0.3.13",
        "tenant_id isolates nothing when the master runs without tenants",
        ("tenant",),
    ),
    KnownFailure(
        "Mooncake 0.3.13",
        "several masters with an operation log and SSD offload: most pages are lost",
        ("ha-ssd",),
    ),
    KnownFailure(
        "Mooncake 0.3.13",
        "protocol rdma runs as TCP where there is no RDMA",
        ("rdma",),
    ),
)
