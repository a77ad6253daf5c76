"""Rules on the page size."""

from __future__ import annotations

from collections.abc import Iterable

from pdcache.checks.finding import Finding
from pdcache.checks.queries import flags
from pdcache.checks.rule import Subject, finding, rule
from pdcache.topology.schema import WORKER_ROLES, Mode, Role

LARGE = 256
LEAST_OF_KERNELS = 16


@rule(
    "block-page-size",
    "with the attention it picks on Blackwell SGLang turns a page size other than 16, 32, 64 or "
    "128 (MLA: 32 or 64) into 64, with a warning in its log only (sglang 0.5.23 "
    "arg_groups/overrides.py:1145-1187, model_override_base.py:275)",
)
def block_page_size(subject: Subject) -> Iterable[Finding]:
    """On a GPU the page size is a power of two from 16 on."""
    if subject.topology.device != "cuda":
        return
    for path, (role, size) in _page_sizes(subject).items():
        if "attention_backend" in flags(subject, role) or (
            size >= LEAST_OF_KERNELS and not size & (size - 1)
        ):
            continue
        yield finding(
            "block-page-size",
            "warning",
            path,
            f"on Blackwell SGLang turns pages of {size} tokens into pages of 64, and plan and "
            "proof reckon with others than there are.",
            64,
        )


@rule(
    "large-page",
    "only whole pages are stored and found again (sglang 0.5.23 "
    "disaggregation/decode_kvcache_offload_manager.py, mem_cache/unified_radix_cache.py)",
)
def large_page(subject: Subject) -> Iterable[Finding]:
    """A page is no longer than prompts and answers, and has at most 256 tokens."""
    traffic = subject.topology.traffic
    answer = traffic.answer_tokens if subject.topology.mode is Mode.FULL_OFFLOAD else None
    for path, (_, size) in _page_sizes(subject).items():
        if traffic.prompt_tokens is not None and size > traffic.prompt_tokens:
            yield finding(
                "large-page",
                "error",
                path,
                f"a prompt of {traffic.prompt_tokens} tokens fills no page of {size}: nothing is "
                "ever found again.",
                _power_of_two(min(traffic.prompt_tokens, answer or LARGE)),
            )
        elif answer is not None and size > answer:
            yield finding(
                "large-page",
                "warning",
                path,
                f"an answer of {answer} tokens fills no page of {size}: it is not stored but for "
                "what completes the prompt's last page.",
                _power_of_two(answer),
            )
        elif size > LARGE:
            yield finding(
                "large-page",
                "warning",
                path,
                f"with pages of {size} tokens up to {size - 1} tokens of every turn are computed "
                "again.",
                _power_of_two(min(traffic.prompt_tokens or 64, 64)),
            )


def _page_sizes(subject: Subject) -> dict[str, tuple[Role, int]]:
    """Page sizes by the place they are set at."""
    found = {}
    for role in WORKER_ROLES:
        setting = subject.asked[role]["page_size"]
        found[setting.path] = (role, int(setting.value))
    return found


def _power_of_two(limit: int) -> int:
    return int(min(64, 1 << (limit.bit_length() - 1)))
