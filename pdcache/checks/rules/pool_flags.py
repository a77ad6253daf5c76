"""Rules on flags that give KV pools another shape."""

from __future__ import annotations

from collections.abc import Iterable

from pdcache.checks.finding import Finding
from pdcache.checks.queries import KERNEL, flags, is_mla, pair_yaml, store_roles, usable_model
from pdcache.checks.rule import Subject, finding, rule, yaml_at
from pdcache.topology.schema import WORKER_ROLES, Mode, Role

DCP_STORES = ("file", "mooncake")


@rule(
    "dcp",
    "HiCache with decode context parallelism serves MLA on file and Mooncake only "
    "(sglang 0.5.23 managers/cache_controller.py:551-589, arg_groups/hicache_hook.py:129-165; "
    "between roles: disaggregation/common/conn.py:531-549)",
)
def dcp(subject: Subject) -> Iterable[Finding]:
    """``dcp_size`` fits the store, the model and the other role."""
    for role in WORKER_ROLES:
        given = flags(subject, role).get("dcp_size")
        if given is not None and (problem := _dcp_problem(subject, role)):
            yield finding("dcp", "error", given.path, problem, 1)


@rule(
    "unified-memory",
    "SGLang asserts on unified memory with decode offload, and changes the layout of such a server "
    "(sglang 0.5.23 arg_groups/kv_cache_hook.py:533-580, arg_groups/hicache_hook.py:228-246)",
)
def unified_memory(subject: Subject) -> Iterable[Finding]:
    """``enable_unified_memory`` fits decode offload, and leaves the layout as it is written."""
    topology = subject.topology
    switched = {}
    for role in WORKER_ROLES:
        given = flags(subject, role).get("enable_unified_memory")
        if given is None:
            continue
        if problem := _unified_problem(subject, role):
            fix = yaml_at(given.path, False)
            yield finding("unified-memory", "error", given.path, problem, fix=fix)
        layout = subject.resolved[role].get("hicache_mem_layout")
        if layout is not None and layout.value == "page_first_direct":
            switched[layout.path] = role
    for path, role in switched.items():
        yield finding(
            "unified-memory",
            "error" if topology.mode is Mode.FULL_OFFLOAD else "warning",
            path,
            f"with unified memory SGLang gives {role} layout page_first and io kernel in place of "
            "page_first_direct; who reads its pages as they are named here gets wrong KV.",
            fix=pair_yaml(subject, KERNEL),
        )


def _dcp(subject: Subject, role: Role) -> int:
    given = flags(subject, role).get("dcp_size")
    return (given.number or 1) if given is not None else 1


def _dcp_problem(subject: Subject, role: Role) -> str | None:
    sizes = {one: _dcp(subject, one) for one in WORKER_ROLES}
    if sizes[role] <= 1:
        return None
    backend, uses = subject.topology.store.backend, role in store_roles(subject)
    if uses and backend not in DCP_STORES:
        return f"dcp with L3 works on {' and '.join(DCP_STORES)} only, not on {backend}."
    if uses and usable_model(subject, role) is not None and not is_mla(subject, role):
        return "dcp with HiCache works with MLA models only; the server dies at start."
    if sizes[Role.PREFILL] == sizes[Role.DECODE]:
        return None
    said = f"prefill has dcp {sizes[Role.PREFILL]} and decode {sizes[Role.DECODE]}"
    if role is Role.PREFILL:
        return f"{said}; the transfer fails at the first request."
    if subject.topology.mode is Mode.FULL_OFFLOAD:
        return f"{said}; L3 keys hold it, and prefill finds nothing of any answer."
    return None


def _unified_problem(subject: Subject, role: Role) -> str | None:
    topology = subject.topology
    if topology.transfer.backend not in ("mooncake", "mooncake_tcp"):
        return f"unified memory hands KV over by Mooncake only, not by {topology.transfer.backend}."
    if topology.worker(role).pp > 1:
        return "unified memory does not work with pipeline stages here; the server dies at start."
    if role is Role.PREFILL or topology.mode is not Mode.FULL_OFFLOAD:
        return None
    if topology.store.backend != "file":
        return f"from unified memory decode offloads to store file, not {topology.store.backend}."
    if is_mla(subject, role):
        return "decode does not offload an MLA model from unified memory."
    return None
