"""Orchestrate SGLang prefill/decode disaggregation with HiCache on Ray, proved to reuse KV.

Importing this package imports neither torch nor ray.
"""

from __future__ import annotations

__version__ = "0.1.0"
