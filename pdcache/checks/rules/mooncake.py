"""Rules on Mooncake: tenants, and who holds its memory."""

from __future__ import annotations

from collections.abc import Iterable

from pdcache.checks.finding import Finding
from pdcache.checks.rule import Subject, finding, rule, yaml_text
from pdcache.topology.placement import holders
from pdcache.topology.stores import MooncakeStore


@rule(
    "tenant",
    "tenant_id isolates nothing unless the master runs --enable_multi_tenants with a quota file "
    "(mooncake-transfer-engine 0.3.13, run)",
)
def tenant(subject: Subject) -> Iterable[Finding]:
    """A tenant has a quota on a master that knows tenants."""
    store = subject.topology.store
    if not isinstance(store, MooncakeStore):
        return
    ours = store.master is None
    if store.tenant is not None and ours and store.tenant_quota_gb is None:
        count = holders(store, len(subject.facts.nodes))
        yield finding(
            "tenant",
            "error",
            "store.tenant_quota_gb",
            f"tenant {store.tenant} would have a quota of 0: nothing could be stored.",
            max(1, count) * store.segment_gb,
        )
    if store.tenant is not None and not ours:
        yield finding(
            "tenant",
            "warning",
            "store.tenant",
            f"{store.master} keeps tenants apart only if it runs with --enable_multi_tenants and a "
            f"quota file that names {store.tenant}.",
            fix="# remove store.tenant, or see to these flags of the master",
        )
    if store.tenant_quota_gb is not None and (store.tenant is None or not ours):
        reason = "no tenant is named" if ours else "the master is given and has its own quotas"
        yield finding(
            "tenant",
            "error",
            "store.tenant_quota_gb",
            f"the quota does nothing: {reason}.",
            fix="# remove store.tenant_quota_gb",
        )


@rule(
    "no-segment",
    "a Mooncake master holds no pages itself; without a segment every put fails with -200 "
    "(mooncake-transfer-engine 0.3.13, run)",
)
def no_segment(subject: Subject) -> Iterable[Finding]:
    """Some process gives memory to a store that is started here."""
    store = subject.topology.store
    if not isinstance(store, MooncakeStore) or store.master is not None:
        return
    if not holders(store, len(subject.facts.nodes)) and not store.worker_segment_gb:
        yield finding(
            "no-segment",
            "error",
            "store.holders",
            "there are no holders and the workers give no memory: no page can be stored.",
            1,
        )


@rule(
    "worker-segment",
    "a graceful end of a segment's owner makes its keys vanish at once, a kill after 10 s "
    "(mooncake-transfer-engine 0.3.13, run)",
)
def worker_segment(subject: Subject) -> Iterable[Finding]:
    """L3 lives in processes that outlive the workers."""
    store = subject.topology.store
    if not isinstance(store, MooncakeStore) or not store.worker_segment_gb:
        return
    own: dict[str, float] = {"worker_segment_gb": 0.0}
    if store.master is None and not holders(store, len(subject.facts.nodes)):
        own["holders"] = 1
    yield finding(
        "worker-segment",
        "warning",
        "store.worker_segment_gb",
        "pages in the memory of a worker are lost when it ends or is restarted; holders keep "
        "theirs.",
        fix=yaml_text({"store": own}),
    )


@rule(
    "ha-ssd",
    "with an operation log most pages that leave memory are lost: 30 of 90 could be read, none was "
    "on disk (mooncake-transfer-engine 0.3.13, run)",
)
def ha_ssd(subject: Subject) -> Iterable[Finding]:
    """Several masters and disks behind the holders exclude each other."""
    store = subject.topology.store
    if isinstance(store, MooncakeStore) and store.ha is not None and store.ssd is not None:
        yield finding(
            "ha-ssd",
            "error",
            "store.ssd",
            "Mooncake loses pages when several masters and SSD offload are used together. A single "
            "master with SSD gets back what is on disk when it is restarted.",
            fix="# remove store.ssd, or store.ha",
        )
