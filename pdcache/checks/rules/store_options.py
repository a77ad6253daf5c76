"""Rules on options and variables that reach a storage backend past the topology's own keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pdcache.checks.finding import Finding
from pdcache.checks.queries import store_roles
from pdcache.checks.rule import Subject, finding, rule
from pdcache.store.backend import Ground, WorkerAccess
from pdcache.store.registry import BACKENDS
from pdcache.topology.schema import Mode, Role
from pdcache.topology.stores import SimmStore

OWN_KEYS = {
    "prefetch_threshold": "hicache.prefetch_threshold",
    "prefetch_timeout_base": "hicache.prefetch_timeout_base_s",
    "prefetch_timeout_per_ki_token": "hicache.prefetch_timeout_per_ki_token_s",
    "hicache_storage_pass_prefix_keys": "hicache.pass_prefix_keys",
    "tp_lcm_size": "store.tp_lcm_size",
}
"""Options of any backend that the topology has a key for."""

OWN_KEYS_OF = {
    "mooncake": {"tenant_id": "store.tenant", "extra_backend_tag": "store.namespace"},
    "file": {"max_size": "store.max_size_gb", "file_storage_path": "store.path"},
    "hf3fs": {"use_mock_hf3fs_client": "store.mock_client"},
    "dynamic": {"namespace": "store.namespace"},
}
"""Options of one backend, also those that pdcache leaves out while their key is unset."""

READ_NOTHING = ("aibrix", "eic", "hf3fs")
"""Backends that take no further option: they are told all by a file or by variables."""

STRIDE_ENV = "SGLANG_HICACHE_DECODE_OFFLOAD_STRIDE"
TUNING = ("MC_", "PYTHONPATH")
"""Variables that a user may lay over those of pdcache."""


@rule(
    "owned-option",
    "an option that pdcache derives wins over store.extra, and one that decode does not know goes "
    "to its backend (sglang 0.5.23 disaggregation/decode_kvcache_offload_manager.py:71)",
)
def owned_option(subject: Subject) -> Iterable[Finding]:
    """``store.extra`` holds no option that the topology has a key for."""
    store = subject.topology.store
    known = OWN_KEYS | OWN_KEYS_OF.get(store.backend, {})
    derived = {name for role in store_roles(subject) for name in _access(subject, role).options}
    for name in store.extra:
        if name in known or name in derived:
            own = f" and use {known[name]}" if name in known else ""
            yield finding(
                "owned-option",
                "error",
                f"store.extra.{name}",
                f"pdcache derives the option {name} for all workers; here it does nothing, or "
                "goes past the checks.",
                fix=f"# remove store.extra.{name}{own}",
            )


@rule(
    "unread-option",
    "AIBrix, EIC and hf3fs read no further option (sglang 0.5.23 mem_cache/storage/"
    "{aibrix_kvcache/aibrix_kvcache_storage,eic/eic_storage,hf3fs/storage_hf3fs}.py)",
)
def unread_option(subject: Subject) -> Iterable[Finding]:
    """Every option under ``store.extra`` is read by somebody."""
    store = subject.topology.store
    if store.backend not in READ_NOTHING:
        return
    known = OWN_KEYS | OWN_KEYS_OF.get(store.backend, {})
    for name in store.extra:
        if name not in known:
            yield finding(
                "unread-option",
                "error",
                f"store.extra.{name}",
                f"{store.backend} reads no such option; it would do nothing.",
                fix=f"# remove store.extra.{name}",
            )


@rule(
    "simm-tag",
    "SiMM writes and reads keys with the tag but looks for them without it "
    "(sglang 0.5.23 mem_cache/storage/simm/hicache_simm.py:322, 347, 495)",
)
def simm_tag(subject: Subject) -> Iterable[Finding]:
    """SiMM gets no tag, and no namespace that would promise to keep pages apart."""
    store = subject.topology.store
    if not isinstance(store, SimmStore):
        return
    if "extra_backend_tag" in store.extra:
        yield finding(
            "simm-tag",
            "error",
            "store.extra.extra_backend_tag",
            "with a tag every lookup misses: SiMM writes keys with it and looks without it.",
            fix="# remove store.extra.extra_backend_tag: use one SiMM cluster a deployment",
        )
    if store.namespace is not None:
        yield finding(
            "simm-tag",
            "error",
            "store.namespace",
            "SiMM cannot keep namespaces apart; this one would have no effect.",
            fix="# remove store.namespace: use one SiMM cluster a deployment",
        )


@rule(
    "owned-env",
    "a variable of one role moves its L3 elsewhere, and nothing is shared "
    "(sglang 0.5.23 mem_cache/hicache_storage.py:732: the variable wins over the option)",
)
def owned_env(subject: Subject) -> Iterable[Finding]:
    """``env`` holds no variable by which pdcache tells a server where L3 is."""
    for role in store_roles(subject):
        derived = {name for name in _access(subject, role).env if not name.startswith(TUNING)}
        if role is Role.DECODE and subject.topology.mode is Mode.FULL_OFFLOAD:
            derived.add(STRIDE_ENV)
        for name in subject.topology.worker(role).env:
            if name in derived:
                yield finding(
                    "owned-env",
                    "error",
                    f"{role}.env.{name}",
                    f"pdcache sets {name} for all workers; {role} would go its own way.",
                    fix=f"# remove {role}.env.{name} and use the topology's own key",
                )


@dataclass(frozen=True)
class _NoPorts:
    """Ports do not matter to the names of options."""

    def given(self, port: int, path: str) -> int:
        return port

    def service(self, node: str | None = None) -> int:
        return 0


def _access(subject: Subject, role: Role) -> WorkerAccess:
    """What the backend would tell a worker; only names in it mean anything."""
    addresses = tuple(node.address for node in subject.facts.nodes) or ("127.0.0.1",)
    code: Mapping[str, str] = {}
    ground = Ground(subject.topology, addresses, _NoPorts(), "", str, "", code)
    backend = BACKENDS[subject.topology.store.backend]
    return backend.lay_out(ground).worker(addresses[0], role, "")
