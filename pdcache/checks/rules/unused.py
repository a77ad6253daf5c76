"""The rule on keys that are set on a role which has no use for them."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from pdcache.checks.finding import Finding
from pdcache.checks.rule import Subject, finding, rule
from pdcache.topology.schema import Mode, Role

UNUSED = {
    Role.PREFILL: ("offload_stride", "retraction_backup", "radix_cache"),
    Role.DECODE: ("bootstrap_port", "chunked_prefill_size"),
}
"""Keys of a role that only the other one uses."""

NOT_FOR_STAGING = (
    "host_memory_fraction",
    "write_policy",
    "prefetch_policy",
    "prefetch_threshold",
    "prefetch_timeout_base_s",
    "prefetch_timeout_per_ki_token_s",
    "pass_prefix_keys",
)
"""Keys of ``hicache`` that say nothing to decode, which only stages pages."""


@rule("no-effect", "a setting that is accepted and does nothing hides what really happens")
def no_effect(subject: Subject) -> Iterable[Finding]:
    """No key is set on a role that has no use for it."""
    for role, other in ((Role.PREFILL, Role.DECODE), (Role.DECODE, Role.PREFILL)):
        for key in _unused(subject, role):
            path = f"{role}.{key}"
            yield finding(
                "no-effect",
                "error",
                path,
                f"only {other} workers use this; on {role} it does nothing.",
                fix=f"# remove {path}, or set {other}.{key}",
            )
    mode = subject.topology.mode
    if mode is Mode.PREFILL_ONLY and _is_set(subject.topology.decode, "offload_stride"):
        yield finding(
            "no-effect",
            "error",
            "decode.offload_stride",
            "in prefill_only decode offloads nothing; the stride does nothing.",
            fix="# remove decode.offload_stride, or set mode: full_offload",
        )


def _unused(subject: Subject, role: Role) -> list[str]:
    worker = subject.topology.worker(role)
    unused = [key for key in UNUSED[role] if _is_set(worker, key)]
    if role is Role.DECODE:
        own = worker.hicache
        unused += [f"hicache.{key}" for key in NOT_FOR_STAGING if _is_set(own, key)]
        # The other value is wrong, not idle: rule `buffer-only`.
        if own.host_memory_mode == "cache":
            unused.append("hicache.host_memory_mode")
    return unused


def _is_set(section: BaseModel, key: str) -> bool:
    value = getattr(section, key)
    return value is not None and value is not False
