"""Rules on pipeline stages."""

from __future__ import annotations

from collections.abc import Iterable

from pdcache.checks.finding import Finding
from pdcache.checks.queries import store_roles, traits
from pdcache.checks.rule import Subject, finding, rule, yaml_text
from pdcache.topology.schema import Mode


@rule(
    "pp",
    "decode asserts that it has prefill's stages or one, at the first request; L3 keys hold the "
    "stage (sglang 0.5.23 disaggregation/common/conn.py:1516, mem_cache/hicache_storage.py:749)",
)
def pp(subject: Subject) -> Iterable[Finding]:
    """Decode has prefill's pipeline stages; in prefill_only it may have none."""
    prefill, decode = subject.topology.prefill.pp, subject.topology.decode.pp
    if decode == prefill:
        return
    if decode > 1:
        message = (
            f"prefill has {prefill} pipeline stages and decode {decode}; decode takes KV from a "
            "prefill with as many stages as its own only."
        )
    elif subject.topology.mode is Mode.FULL_OFFLOAD:
        message = (
            f"prefill has {prefill} pipeline stages and decode one: decode's pages hold all "
            "layers under other keys, and prefill finds nothing of any answer."
        )
    else:
        return
    yield finding("pp", "error", "decode.pp", message, prefill)


@rule(
    "pp-prefetch",
    "each stage decides alone when its read from L3 is done; they can disagree and hang, and users "
    "saw no reads at all (sglang PRs 27010, 34287, 34568)",
)
def pp_prefetch(subject: Subject) -> Iterable[Finding]:
    """Prefill reads L3 without pipeline stages."""
    stages = subject.topology.prefill.pp
    if stages > 1:
        yield finding(
            "pp-prefetch",
            "warning",
            "prefill.pp",
            f"with {stages} pipeline stages prefill writes to L3, but reading it back is reported "
            "to never engage, or to hang when stages disagree; rely on it only after `pdcache "
            "verify`.",
            1,
        )


@rule(
    "pipeline-keys",
    "the keys of some backends hold no stage: a stage reads the layers of another, with no error "
    "(sglang 0.5.23 mem_cache/storage/{hf3fs/storage_hf3fs,nixl/hicache_nixl,eic/eic_storage}.py)",
)
def pipeline_keys(subject: Subject) -> Iterable[Finding]:
    """Stages share a store only if its keys tell them apart."""
    if traits(subject).stages:
        return
    for role in store_roles(subject):
        stages = subject.topology.worker(role).pp
        if stages > 1:
            yield finding(
                "pipeline-keys",
                "error",
                f"{role}.pp",
                f"{subject.topology.store.backend} has one name for a page of all {stages} stages: "
                "every stage but the first would read the layers of another.",
                fix=yaml_text({"prefill": {"pp": 1}, "decode": {"pp": 1}}),
            )
