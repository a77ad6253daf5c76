"""Proof that KV is reused: canaries through every hop, before a cluster says UP."""

from __future__ import annotations

from pdcache.proof.canary import Canary, Proof
from pdcache.proof.run import prove

__all__ = ["Canary", "Proof", "prove"]
