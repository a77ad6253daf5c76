"""docs/settings.md: who decides what. The text is in settings.md beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pages.markdown import GENERATED, table
from pdcache.checks.rules.mode import OWNED
from pdcache.plan import build_plan
from pdcache.sglang.flags import flag
from pdcache.topology.facts import Facts, Node
from pdcache.topology.schema import Topology

TEXT = Path(__file__).with_name("settings.md")
ALL_OF_A_ROLE = {
    "tp": 2, "pp": 1, "dp": 1, "attn_dp": 2, "ep": 1, "nodes": 2, "tokenizer_path": "/t",
    "max_total_tokens": 1024, "max_running_requests": 8, "mem_fraction_static": 0.8,
    "eviction_policy": "lru", "kv_events": {}, "port": 30000,
}  # fmt: skip
NO_KEY = "none"


def settings_page() -> str:
    """The text, with the table of owned flags put in."""
    keys: dict[str, dict[str, None]] = {}
    for name in sorted(OWNED):
        keys[flag(name)] = {}
    for topology in _topologies():
        plan = build_plan(topology, Facts(nodes=(Node("10.0.0.1"), Node("10.0.0.2"))))
        for origins in plan.provenance.values():
            for name, origin in origins.items():
                if name in keys:
                    keys[name][origin.path] = None
    rows = []
    for name, paths in keys.items():
        # A path without a role's own key says that the flag follows from the machine.
        shown = dict.fromkeys(
            path.replace("prefill.", "ROLE.").replace("decode.", "ROLE.") for path in paths if path
        )
        rows.append((f"`{name}`", ", ".join(f"`{path}`" for path in shown) or _without_key(paths)))
    return GENERATED + "\n" + TEXT.read_text().replace("FLAGS\n", table(("flag", "key"), rows))


def _without_key(paths: dict[str, None]) -> str:
    return "follows from the nodes" if paths else NO_KEY


def _topologies() -> list[Topology]:
    """Topologies that together set every key that becomes a flag."""

    def topology(mode: str, hicache: dict[str, Any], device: str = "cuda") -> Topology:
        own = {"chunked_prefill_size": 1024, "bootstrap_port": 31000, "kv_events": {"port": 6000}}
        alone = mode == "prefill_only"
        decode = {"retraction_backup": "none", "radix_cache": alone, "port": 32000}
        data = {
            "name": "docs", "mode": mode, "device": device, "hicache": hicache,
            "model": {"path": "org/model", "context_length": 1024, "dtype": "bfloat16"},
            "transfer": {"ib_device": "mlx5_0"},
            "prefill": ALL_OF_A_ROLE | own, "decode": ALL_OF_A_ROLE | decode,
        }  # fmt: skip
        return Topology.model_validate(data)

    return [
        topology("full_offload", {"size_gb": 1}),
        topology("full_offload", {"ratio": 2.0}, "cpu"),
        topology("prefill_only", {"host_memory_fraction": 0.5, "host_memory_mode": "cache"}),
    ]
