"""Rules on flags that exclude disaggregation, HiCache or what they are good for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pdcache.checks.finding import Finding
from pdcache.checks.queries import GivenFlag, flags
from pdcache.checks.rule import Subject, finding, rule, yaml_at
from pdcache.topology.schema import WORKER_ROLES, Mode, Role, Scalar

PREFILL, DECODE = (Role.PREFILL,), (Role.DECODE,)


@dataclass(frozen=True)
class Excluded:
    """A flag, what it does to a PD server, and on whom.

    Attributes:
        value: the one that does it; ``None``: any.
        refused: the server does not start, or not as part of the cluster.
    """

    flag: str
    does: str
    roles: tuple[Role, ...] = WORKER_ROLES
    value: Scalar = None
    refused: bool = True


EXCLUDED = (
    Excluded("enable_pdmux", "runs prefill and decode on one server"),
    Excluded("encoder_only", "makes an encoder, which is neither prefill nor decode"),
    Excluded("dllm_algorithm", "makes SGLang leave PD disaggregation, with a warning in its log"),
    Excluded("enable_lmcache", "puts LMCache in the place of HiCache and works without PD only"),
    Excluded("enable_unified_cache_external_linker", "puts a linker in the place of HiCache"),
    Excluded("radix_cache_backend", "puts a plugin in the place of HiCache's tree", PREFILL),
    Excluded("enable_kv_cache_sharding", "leaves a rank a stripe of each page: L3 is refused"),
    Excluded("prefill_only_disable_kv_cache", "leaves no KV to hand to decode"),
    Excluded("enable_response_store", "works without PD disaggregation only"),
    Excluded("enable_watermark", "works without PD disaggregation only"),
    Excluded("enable_linear_replayssm", "works without PD disaggregation only"),
    Excluded(
        "mamba_radix_cache_strategy", "works without PD disaggregation only",
        value="extra_buffer_lazy",
    ),
    Excluded(
        "disaggregation_decode_allocation_policy", "works with an L2 of write_back and no L3 only",
        PREFILL, "prefill_complete",
    ),
    Excluded(
        "enable_pd_role_switch", "lets a server change its role, which the gateway, the plan and "
        "L3 would not follow", refused=False,
    ),
)  # fmt: skip


@rule(
    "pd-excluded",
    "SGLang refuses these beside PD or HiCache, or drops PD (sglang 0.5.23 arg_groups/"
    "{validation_hook.py:88, 111, 256, pd_disaggregation_hook.py:201-240, 311, dllm_hook.py:105, "
    "kv_cache_hook.py:431-473, 872, hicache_hook.py:44-59, kv_shard_hook.py:99, 176, "
    "attention_hook.py:424, mamba_hook.py:125}, mem_cache/registry.py:225)",
)
def pd_excluded(subject: Subject) -> Iterable[Finding]:
    """No flag excludes disaggregation or HiCache."""
    for role in WORKER_ROLES:
        given = flags(subject, role)
        for one in EXCLUDED:
            flag = given.get(one.flag)
            if flag is None or role not in one.roles or one.value not in (None, flag.value):
                continue
            yield finding(
                "pd-excluded",
                "error" if one.refused else "warning",
                flag.path,
                f"{one.flag} {one.does}.",
                fix=f"# remove {flag.path}",
            )


@rule(
    "disable-radix",
    "HiCache is an extension of the radix cache: SGLang raises ValueError "
    "(sglang 0.5.23 arg_groups/kv_cache_hook.py:393-397)",
)
def disable_radix(subject: Subject) -> Iterable[Finding]:
    """Prefill keeps its radix cache."""
    flag = flags(subject, Role.PREFILL).get("disable_radix_cache")
    if flag is not None:
        yield finding(
            "disable-radix",
            "error",
            flag.path,
            "prefill runs HiCache, which needs the radix cache; the server dies at start.",
            fix=f"# remove {flag.path}",
        )


@rule(
    "speculative",
    "L3 holds no KV of the draft model: after a hit fewer drafts are accepted "
    "(sglang issues 31600, 28771, 30393)",
)
def speculative(subject: Subject) -> Iterable[Finding]:
    """Speculative decoding is named as one that L3 hits make slower."""
    if subject.topology.mode is not Mode.PREFILL_ONLY:
        return
    for role in WORKER_ROLES:
        flag = flags(subject, role).get("speculative_algorithm")
        # NGRAM has no draft model.
        if flag is not None and str(flag.value).upper() != "NGRAM":
            yield finding(
                "speculative",
                "warning",
                flag.path,
                "a prompt read from L3 comes without the KV of the draft model; fewer of its "
                "drafts are accepted than after computing the prompt.",
                fix=f"# remove {flag.path}, or compare with `pdcache replay`",
            )


@rule(
    "lora-roles",
    "prefill and decode apply an adapter by its own list; its name and path decide the id that L3 "
    "keys hold (sglang 0.5.23 lora/lora_registry.py:47-55)",
)
def lora_roles(subject: Subject) -> Iterable[Finding]:
    """Both roles have the same adapters."""
    given = {role: flags(subject, role) for role in WORKER_ROLES}
    # Paths alone turn LoRA on.
    on = [{"lora_paths", "enable_lora"} & set(given[role]) for role in WORKER_ROLES]
    for key in ("lora_paths", "enable_lora"):
        prefill, decode = (given[role].get(key) for role in WORKER_ROLES)
        if _value(prefill) == _value(decode) or (key == "enable_lora" and all(on)):
            continue
        lacks = Role.PREFILL if prefill is None else Role.DECODE
        flag, wanted = (prefill, decode) if lacks is Role.PREFILL else (decode, prefill)
        path = f"{lacks}.args.{key}" if flag is None else flag.path
        yield finding(
            "lora-roles",
            "error",
            path,
            f"{key} is {_value(prefill)} on prefill and {_value(decode)} on decode: a request for "
            "an adapter fails on one of them, or one of them does not apply it.",
            fix=yaml_at(path, _value(wanted)),
        )


def _value(flag: GivenFlag | None) -> Scalar:
    return None if flag is None else flag.value
