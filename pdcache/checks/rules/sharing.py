"""Rules on what all workers that exchange KV must have in common."""

from __future__ import annotations

from collections.abc import Iterable

from pdcache.checks.budget import model_path
from pdcache.checks.finding import Finding
from pdcache.checks.rule import Subject, finding, rule, yaml_at, yaml_text
from pdcache.topology.schema import WORKER_ROLES, Mode, Role
from pdcache.topology.settings import KV_ARGS, attention_tp


def _differs(subject: Subject, key: str) -> tuple[object, object] | None:
    prefill, decode = (
        subject.resolved[Role.PREFILL].get(key),
        subject.resolved[Role.DECODE].get(key),
    )
    if prefill is None or decode is None or prefill.value == decode.value:
        return None
    return prefill.value, decode.value


@rule(
    "page-size",
    "decode refuses a prefill with another page size only at the first request, and "
    "page hashes differ, so nothing is ever found (sglang 0.5.23 disaggregation/common/conn.py)",
)
def page_size(subject: Subject) -> Iterable[Finding]:
    """prefill and decode page sizes are equal."""
    if pair := _differs(subject, "page_size"):
        yield finding(
            "page-size",
            "error",
            "decode.page_size",
            f"prefill has pages of {pair[0]} tokens and decode of {pair[1]}; the transfer fails at "
            "the first request and L3 keys never match.",
            pair[0],
        )


@rule(
    "layout",
    "L3 keys hold no layout: a page written in one byte order and read in another is "
    "wrong KV with no error (sglang 0.5.23 mem_cache/hicache_storage.py)",
)
def layout(subject: Subject) -> Iterable[Finding]:
    """Resolved memory layout and io backend are equal on all writers and readers of a store."""
    keys = {"layout": "hicache_mem_layout", "io_backend": "hicache_io_backend"}
    prefill = subject.resolved[Role.PREFILL]
    same = {"decode": {"hicache": {short: prefill[key].value for short, key in keys.items()}}}
    for short, key in keys.items():
        if pair := _differs(subject, key):
            switches = [
                f"; {role} asked for {asked.value}, which SGLang resolves to {resolved.value}"
                for role in (Role.PREFILL, Role.DECODE)
                if (asked := subject.asked[role][key]).value
                != (resolved := subject.resolved[role][key]).value
            ]
            yield finding(
                "layout",
                "error",
                f"decode.hicache.{short}",
                f"prefill uses {short} {pair[0]} and decode {pair[1]} on one store, so decode's "
                f"pages would be read in the wrong byte order{''.join(switches)}.",
                fix=yaml_text(same),
            )


@rule(
    "dtype",
    "L3 keys hold no dtype and pages have no header (sglang 0.5.23 mem_cache/hicache_storage.py)",
)
def dtype(subject: Subject) -> Iterable[Finding]:
    """Weights and KV have one dtype on both roles."""
    if pair := _differs(subject, "dtype"):
        yield finding(
            "dtype",
            "error",
            "decode.dtype",
            f"prefill computes in {pair[0]} and decode in {pair[1]}; their KV cannot be exchanged.",
            pair[0],
        )


@rule(
    "kv-args",
    "flags that change the bytes of a page are in no key "
    "(sglang 0.5.23 mem_cache/hicache_storage.py)",
)
def kv_args(subject: Subject) -> Iterable[Finding]:
    """``args`` that shape KV are equal on both roles."""
    for key in KV_ARGS:
        values = [
            own[key].value if key in (own := subject.resolved[role]) else None
            for role in (Role.PREFILL, Role.DECODE)
        ]
        if values[0] != values[1]:
            yield finding(
                "kv-args",
                "error",
                f"decode.args.{key}",
                f"prefill has {key} {values[0]} and decode {values[1]}; their KV cannot be shared.",
                values[0],
            )


@rule(
    "served-name",
    "the served model name is part of every L3 key and the name clients use "
    "(sglang 0.5.23 mem_cache/storage/mooncake_store/mooncake_store.py)",
)
def served_name(subject: Subject) -> Iterable[Finding]:
    """One served model name on both roles."""
    if pair := _differs(subject, "served_model_name"):
        yield finding(
            "served-name",
            "error",
            "decode.served_name",
            f"prefill serves {pair[0]!r} and decode {pair[1]!r}: L3 keys never match, and the "
            "gateway sees two models.",
            pair[0],
        )


@rule(
    "model-files",
    "KV of other weights is wrong KV, and no key tells weights apart (sglang issue 24758)",
)
def model_files(subject: Subject) -> Iterable[Finding]:
    """Every model can be read, and both roles have the same weights."""
    digests = {}
    for role in (Role.PREFILL, Role.DECODE):
        path = model_path(subject.topology, role)
        place = f"{role}.model_path" if subject.topology.worker(role).model_path else "model.path"
        view = subject.facts.models.get(path)
        if view is None:
            continue
        if view.problem is None:
            digests[role] = view.weights_digest
        elif role is Role.PREFILL or place != "model.path":
            remedy = f"# {view.remedy}\n" if view.remedy else ""
            shared = model_path(subject.topology, Role.PREFILL)
            usable = role is Role.DECODE and Role.PREFILL in digests
            instead = yaml_at(place, shared if usable else "smollm2-135m")
            yield finding("model-files", "error", place, view.problem, fix=f"{remedy}{instead}")
    if len(digests) == 2 and len(set(digests.values())) == 2:
        yield finding(
            "model-files",
            "error",
            "decode.model_path",
            "prefill and decode have different weights under one store.",
            model_path(subject.topology, Role.PREFILL),
        )


@rule(
    "tokenizer", "another tokenizer makes other tokens of the same text: wrong answers or no hits"
)
def tokenizer(subject: Subject) -> Iterable[Finding]:
    """Both roles have the same tokenizer, and it can be read."""
    digests = {}
    views = {**subject.facts.tokenizers, **subject.facts.models}
    for role in (Role.PREFILL, Role.DECODE):
        own = subject.topology.worker(role).tokenizer_path
        path = own or model_path(subject.topology, role)
        view = views.get(path)
        if view is not None and view.tokenizer_digest:
            digests[role] = (path, view.tokenizer_digest)
        elif view is not None and own and view.problem:
            place = f"{role}.tokenizer_path"
            yield finding(
                "tokenizer", "error", place, view.problem,
                fix=f"# remove {place}: the model's own tokenizer is used",
            )  # fmt: skip
    if len(digests) == 2 and digests[Role.PREFILL][1] != digests[Role.DECODE][1]:
        yield finding(
            "tokenizer",
            "error",
            "decode.tokenizer_path",
            "prefill and decode have different tokenizers.",
            digests[Role.PREFILL][0],
        )


@rule(
    "tp",
    "Mooncake keys hold the rank but not the TP size: with unequal TP a rank reads the "
    "shard of another (sglang 0.5.23 mem_cache/storage/mooncake_store/mooncake_store.py)",
)
def tp(subject: Subject) -> Iterable[Finding]:
    """Equal TP on both roles of full_offload, unless the model is MLA."""
    topology = subject.topology
    sizes = {role: attention_tp(topology.worker(role)) for role in WORKER_ROLES}
    unequal = sizes[Role.PREFILL] != sizes[Role.DECODE]
    view = subject.facts.models.get(topology.model.path)
    if topology.mode is not Mode.FULL_OFFLOAD or not unequal or (view and view.is_mla):
        return
    layout = subject.resolved[Role.PREFILL]["hicache_mem_layout"].value
    common = getattr(topology.store, "tp_lcm_size", None)
    if layout == "page_head" and common and not any(common % size for size in sizes.values()):
        return
    yield finding(
        "tp",
        "error",
        "decode.tp",
        f"prefill has attention tp {sizes[Role.PREFILL]} and decode {sizes[Role.DECODE]} on one "
        "store; decode's pages would hold other heads than prefill reads. With Mooncake, layout "
        "page_head and store.tp_lcm_size make heads objects of their own.",
        fix=yaml_text({"decode": {"tp": topology.prefill.tp, "attn_dp": topology.prefill.attn_dp}}),
    )
