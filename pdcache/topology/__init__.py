"""The YAML: its schema, its loading, and what each setting becomes."""

from __future__ import annotations

from pdcache.topology.load import load_topology, parse_topology
from pdcache.topology.schema import Mode, Role, Topology

__all__ = ["Mode", "Role", "Topology", "load_topology", "parse_topology"]
