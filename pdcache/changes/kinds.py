"""The least that must be done to a process so that it becomes what a new plan wants."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from enum import StrEnum

from pdcache.errors import ClusterError
from pdcache.plan.portable import flags
from pdcache.plan.process import Plan, Process
from pdcache.topology.schema import Role

BACKEND = "--hicache-storage-backend"
OPTIONS = "--hicache-storage-backend-extra-config"
PREFETCH = "--hicache-storage-prefetch-policy"
WRITE = "--hicache-write-policy"
OFFLOAD = "--disaggregation-decode-enable-offload-kvcache"

POLICIES = {PREFETCH, WRITE}
"""Can be changed by SGLang at run time while the backend stays (sglang 0.5.23
``entrypoints/http_server.py``, ``mem_cache/unified_cache/storage_attachment.py:103-118``)."""

STORAGE = {BACKEND, OPTIONS, *POLICIES}
"""Can be changed at run time by a detach and an attach, on prefill workers only."""

DETACHED = STORAGE - {WRITE}
"""Can be changed by a detach alone: it takes no policy, and L2 goes on writing as it did."""


class Kind(StrEnum):
    """How a process is changed, from the least to the most."""

    NOTHING = "nothing"
    POLICIES = "policies"
    STORAGE = "storage"
    RESTART = "restart"
    ADD = "add"
    REMOVE = "remove"


def kind_of(before: Process | None, after: Process | None) -> Kind:
    """The least that makes one process of the other.

    Decode workers cannot attach or detach: they have no hierarchical cache (sglang 0.5.23
    ``managers/scheduler.py``), so they are restarted.
    """
    if before is None or after is None:
        return Kind.ADD if before is None else Kind.REMOVE
    if _rest(before) != _rest(after):
        return Kind.RESTART
    old, new = flags(before), flags(after)
    different = {name for name in {*old, *new} if old.get(name) != new.get(name)}
    if not different:
        return Kind.NOTHING
    allowed = STORAGE if BACKEND in new else DETACHED
    if before.role is not Role.PREFILL or before.rank or different - allowed:
        return Kind.RESTART
    policies_stay = BACKEND in old and BACKEND in new and not different - POLICIES
    return Kind.POLICIES if policies_stay else Kind.STORAGE


def refuse_impossible(before: Plan, after: Plan) -> None:
    """Refuse what no sequence of steps can do while the cluster serves.

    Raises:
        ClusterError: workers of both kinds could not work together in between, or the store, its
            content or the gateway's address would be lost.
    """
    remedy = f"`pdcache down {before.name}`, then bring the new topology up."
    for role, old in before.formats.items():
        new = after.formats[role]
        for key in ("page_size", "dtype", "layout", "tp", "served_name"):
            if getattr(old, key) != getattr(new, key):
                raise ClusterError(
                    f"{key} cannot change while the cluster serves ({getattr(old, key)} -> "
                    f"{getattr(new, key)}): old and new workers could not exchange KV.",
                    where=role, remedy=remedy,
                )  # fmt: skip
    same = (
        ("name", "the name"), ("mode", "the mode"), ("model_path", "the model"),
        ("endpoint", "the gateway's address"),
    )  # fmt: skip
    for key, what in same:
        if getattr(before, key) != getattr(after, key):
            raise ClusterError(f"{what} cannot change while the cluster serves.", remedy=remedy)
    ranks = [Counter(own.server for own in plan.processes) for plan in (before, after)]
    for server in ranks[0].keys() & ranks[1].keys():
        if ranks[0][server] != ranks[1][server]:
            raise ClusterError(
                "how many nodes a server spans cannot change while the cluster serves.",
                where=server, remedy=remedy,
            )  # fmt: skip
    old_store = {process.name: process for process in before.role(Role.STORE)}
    new_store = {process.name: process for process in after.role(Role.STORE)}
    for name in dict.fromkeys([*old_store, *new_store]):
        if kind_of(old_store.get(name), new_store.get(name)) is not Kind.NOTHING:
            raise ClusterError(
                "the store cannot change while workers are attached to it.",
                where=name, remedy=remedy,
            )  # fmt: skip


def has_storage(worker: Process) -> bool:
    """Whether a worker reads or writes L3."""
    return BACKEND in worker.argv


def without_storage(plan: Plan) -> Plan:
    """The plan with every worker detached from L3: prefill keeps L1 and L2, decode is plain."""
    return replace(plan, processes=tuple(detached(process) for process in plan.processes))


def detached(process: Process) -> Process:
    """The process without L3; one that has none stays as it is."""
    dropped = {BACKEND, OPTIONS, PREFETCH, OFFLOAD}
    kept: list[str] = []
    words = list(process.argv)
    while words:
        word = words.pop(0)
        if word not in dropped:
            kept.append(word)
        elif words and not words[0].startswith("--"):
            words.pop(0)
    return replace(process, argv=tuple(kept))


def _rest(process: Process) -> tuple[object, ...]:
    """What a process is beside its flags; what it may take, of time and memory, is no part."""
    head = next((i for i, word in enumerate(process.argv) if word.startswith("--")), None)
    return (
        process.argv[:head], process.env, process.ports, process.address, process.files,
        process.folders, process.gpus, process.rank,
    )  # fmt: skip
