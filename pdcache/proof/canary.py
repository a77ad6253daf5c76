"""A canary's result: what was expected of a hop, what was seen, and the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Canary:
    """One proof of one hop.

    Attributes:
        name: what was proved, in a few words.
        hop: who wrote and who read, for example ``prefill-0 -> L3 -> prefill-1``.
        proved: storage tokens as expected and tokens equal.
        cached_tokens: prompt tokens of the proving request by tier.
        expected_storage_tokens: page-aligned tokens that only L3 could serve.
        tokens_equal: the greedy answer equals the one computed without reuse.
        evidence: one line that tells what was seen.
        causes: probable causes, likeliest first, when it failed.
        seconds: how long the canary took.
    """

    name: str
    hop: str
    proved: bool
    cached_tokens: dict[str, int]
    expected_storage_tokens: int
    tokens_equal: bool
    evidence: str
    causes: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Proof:
    """All canaries of a cluster."""

    canaries: tuple[Canary, ...] = field(default_factory=tuple)

    @property
    def proved(self) -> bool:
        """Every hop answered as expected, and there was at least one."""
        return bool(self.canaries) and all(canary.proved for canary in self.canaries)

    def reasons(self) -> list[str]:
        """What failed, a line each."""
        return [
            f"{canary.name} ({canary.hop}): {canary.evidence}"
            for canary in self.canaries
            if not canary.proved
        ]

    def as_json(self) -> dict[str, Any]:
        """The proof under the key names of ``verify --json``."""
        return {
            "schema": 1,
            "proved": self.proved,
            "canaries": [asdict(canary) for canary in self.canaries],
        }
