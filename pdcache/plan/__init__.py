"""Topology -> Plan: the exact processes, their memory, and where each flag came from."""

from __future__ import annotations

from pdcache.plan.build import build_plan
from pdcache.plan.process import KvFormat, Plan, Process

__all__ = ["KvFormat", "Plan", "Process", "build_plan"]
