"""Sizes of L1 and L2 of one role, in tokens of one rank."""

from __future__ import annotations

from dataclasses import dataclass

from pdcache.checks.budget import l1_tokens, l2_tokens, token_bytes
from pdcache.checks.rule import Subject
from pdcache.topology.schema import Role


@dataclass(frozen=True)
class Pools:
    """What one rank of a role keeps.

    Attributes:
        page: tokens a page.
        token_bytes: KV of one token; 0 when the model is not at hand.
        l1: tokens, whole pages; None when the GPU decides and its memory is not known.
        l2: tokens of L2, or of decode's staging pool; None when there is none or it is not known.
    """

    page: int
    token_bytes: int
    l1: int | None
    l2: int | None


def pools(subject: Subject, role: Role) -> Pools:
    """The pools that a role asks for."""
    settings = subject.asked[role]
    page = int(settings["page_size"].value)
    per_token = token_bytes(subject.topology, subject.facts, role, settings)
    l1 = l1_tokens(subject.topology, subject.facts, role, settings)
    l2 = l2_tokens(settings, per_token, l1)
    return Pools(page, per_token, None if l1 is None else l1 // page * page, l2)


def buffer_only(subject: Subject) -> bool:
    """Whether prefill's L2 only stages pages and caches none."""
    mode = subject.asked[Role.PREFILL].get("hicache_host_memory_mode")
    return mode is not None and mode.value == "buffer_only"


def gigabytes(size: float) -> float:
    """Bytes as GB, a little more, to a tenth."""
    return (int(size // 1e8) + 1) / 10
