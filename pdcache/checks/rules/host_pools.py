"""Rules on the sizes of prefill's L2 and of decode's staging."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pdcache.checks.finding import Finding, Severity
from pdcache.checks.pools import buffer_only, pools
from pdcache.checks.rule import Subject, finding, rule
from pdcache.topology.schema import Mode, Role
from pdcache.topology.settings import offload_stride

LOW_RATIO = 1.5
PREFETCH_SHARE, BUFFER_SHARE = 0.5, 0.9
"""Share of L2 that reads from L3 may take, and of an L2 that only stages."""
STAGING_RATIO = 0.25


@rule(
    "l2-ratio",
    "under write_through a page leaves L2 only after it has left L1, so an L2 near L1 has no room "
    "for reads from L3, and one below loses first-seen prefixes (sglang 0.5.23 "
    "mem_cache/unified_cache/unified_tree_core.py, managers/cache_controller.py:624-636; sglang "
    "issues 39444, 26449, 15450)",
)
def l2_ratio(subject: Subject) -> Iterable[Finding]:
    """L2 of prefill is larger than L1, however its size is given."""
    asked, own = subject.asked[Role.PREFILL], pools(subject, Role.PREFILL)
    better: float
    if buffer_only(subject):
        return
    if "hicache_ratio" in asked:
        size, better = asked["hicache_ratio"], 2.0
        ratio = float(size.value)
    elif "hicache_size" in asked and own.l1 and own.l2:
        size, better = asked["hicache_size"], math.ceil(2 * own.l1 * own.token_bytes / 1e9)
        ratio = (own.l2 - own.page) / own.l1
    else:
        return
    if ratio < LOW_RATIO:
        severity: Severity = "error" if ratio <= 1 else "warning"
        lost = (
            "a full L1 leaves no page of L2 to a read from L3, and first-seen prefixes are lost"
            if ratio <= 1
            else "a full L1 leaves little of L2 to reads from L3, and most of them are put off"
        )
        yield finding("l2-ratio", severity, size.path, f"L2 is {ratio:.3g} x L1: {lost}.", better)


@rule(
    "prefetch-limit",
    "reads from L3 may take half of L2 together: one that is larger lets no other start, and one "
    "that L2 cannot hold is cut (sglang 0.5.23 managers/cache_controller.py:624-636, "
    "mem_cache/hybrid_cache/hybrid_cache_controller.py:796)",
)
def prefetch_limit(subject: Subject) -> Iterable[Finding]:
    """The longest prompt is at most half of L2."""
    own, prompt = pools(subject, Role.PREFILL), subject.topology.traffic.prompt_tokens
    share = BUFFER_SHARE if buffer_only(subject) else PREFETCH_SHARE
    if prompt is None or own.l2 is None or prompt <= int(share * own.l2):
        return
    if better := _enough(subject, Role.PREFILL, math.ceil(prompt / share)):
        then = "it is read in part" if prompt > own.l2 else "while it is read, all others wait"
        yield finding(
            "prefetch-limit",
            "warning",
            better[0],
            f"a prompt of {prompt} tokens is more than {share} of L2 ({own.l2} tokens): {then}.",
            better[1],
        )


@rule(
    "staging",
    "decode keeps no L2: its host memory only stages pages on their way to L3, and what finds no "
    "room when its request ends is lost (sglang 0.5.23 "
    "disaggregation/decode_kvcache_offload_manager.py)",
)
def staging(subject: Subject) -> Iterable[Finding]:
    """Decode's staging has room for a stride of every request, and is no second KV pool."""
    own, decode = pools(subject, Role.DECODE), subject.topology.decode
    asked = subject.asked[Role.DECODE]
    if subject.topology.mode is not Mode.FULL_OFFLOAD:
        return
    running = -(-(asked["max_running_requests"].value or 0) // (decode.dp * decode.attn_dp))
    stride = max(1, offload_stride(subject.topology).value // own.page) * own.page
    better = _enough(subject, Role.DECODE, running * stride)
    ratio = asked.get("hicache_ratio")
    if better is not None and own.l2 is not None and own.l2 < running * stride:
        yield finding(
            "staging",
            "warning",
            better[0],
            f"staging has room for {own.l2} tokens, and each of {running} requests may have "
            f"{stride} on their way to L3.",
            better[1],
        )
    elif ratio is not None and ratio.value >= 1:
        least = max(STAGING_RATIO, better[1] if better is not None else 0)
        if least < 1:
            yield finding(
                "staging",
                "warning",
                ratio.path,
                f"decode would pin {ratio.value} x its KV pool, only to stage pages.",
                least,
            )


def _enough(subject: Subject, role: Role, tokens: int) -> tuple[str, float] | None:
    """Where the size of a host pool is set, and the least at which it holds so many tokens."""
    asked, own = subject.asked[role], pools(subject, role)
    if "hicache_size" in asked and own.token_bytes:
        return asked["hicache_size"].path, max(1, math.ceil(tokens * own.token_bytes / 1e9))
    if "hicache_ratio" in asked and own.l1:
        return asked["hicache_ratio"].path, math.ceil(100 * tokens / own.l1) / 100
    return None
