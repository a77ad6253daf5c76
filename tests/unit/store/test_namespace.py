"""The namespace of L3 keys: other for all that shapes the bytes of a page, equal for the rest."""

from __future__ import annotations

import pytest
from golden.plans import shipped

from pdcache.store.namespace import namespace
from pdcache.topology import Role
from pdcache.topology.settings import attention_tp, role_settings
from pdcache.topology.switches import resolve


def name_of(
    *overrides: str, weights: str = "w", role: Role = Role.PREFILL, is_mla: bool = False
) -> str:
    topology = shipped("full_offload", *overrides)
    settings = resolve(role_settings(topology, role))
    tp = attention_tp(topology.worker(role))
    return namespace(topology, settings, weights, tp=tp, is_mla=is_mla)


@pytest.mark.parametrize(
    "override",
    [
        "model.dtype=bfloat16",
        "prefill.dtype=float16",
        "page_size=32",
        "prefill.tp=2",
        "prefill.pp=2",
        "hicache.layout=page_head",
        "hicache.io_backend=kernel_ascend",
        "prefill.args.kv-cache-dtype=fp8_e5m2",
        "prefill.args.--quantization=fp8",
        "prefill.args.json_model_override_args='{}'",
        "prefill.args.revision=main",
    ],
)
def test_what_shapes_the_bytes_of_a_page_makes_another_namespace(override: str) -> None:
    assert name_of(override) != name_of()


def test_every_value_of_an_ingredient_makes_a_namespace_of_its_own() -> None:
    overrides = [
        *(f"page_size={size}" for size in (16, 32, 64)),
        *(f"prefill.tp={tp}" for tp in (2, 4)),
        *(f"prefill.pp={pp}" for pp in (2, 4)),
        *(f"prefill.args.kv-cache-dtype={dtype}" for dtype in ("fp8_e5m2", "fp8_e4m3")),
        *(f"model.dtype={dtype}" for dtype in ("bfloat16", "float16")),
    ]
    assert len({name_of(override) for override in overrides}) == len(overrides)


def test_other_weights_make_another_namespace() -> None:
    assert name_of(weights="other") != name_of()


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "gateway.port=9000",
        "prefill.workers=1",
        "hicache.ratio=3.0",
        "hicache.prefetch_policy=timeout",
        "prefill.max_total_tokens=4096",
        "store.segment_gb=1",
        "model.served_name=mine",
        "model.context_length=2048",
        "hicache.layout=page_first",  # io direct makes it page_first_direct: the same bytes
        "prefill.pp=1",
        "prefill.dp=2",
        "prefill.nodes=2",
        "prefill.kv_events.port=5600",
    ],
)
def test_what_does_not_shape_the_bytes_keeps_the_namespace(override: str) -> None:
    assert name_of(override) == name_of()


def test_both_roles_of_full_offload_have_one_namespace() -> None:
    assert name_of(role=Role.DECODE) == name_of(role=Role.PREFILL)


def test_dp_attention_counts_the_ranks_that_share_a_token() -> None:
    assert name_of("prefill.tp=4", "prefill.attn_dp=2") == name_of("prefill.tp=2")
    assert name_of("prefill.tp=4", "prefill.attn_dp=2") != name_of("prefill.tp=4")


def test_under_mla_a_page_is_the_same_on_every_rank() -> None:
    assert name_of("prefill.tp=4", is_mla=True) == name_of(is_mla=True)
    assert name_of("prefill.pp=2", is_mla=True) != name_of(is_mla=True)


def test_with_a_common_multiple_of_tp_heads_are_objects_of_their_own() -> None:
    common = "store.tp_lcm_size=4"
    assert name_of(common, "prefill.tp=2") == name_of(common, "prefill.tp=4")
    assert name_of(common, "page_size=32") != name_of(common)


def test_a_namespace_of_the_users_is_taken_as_it_is() -> None:
    assert name_of("store.namespace=mine", "page_size=32") == "mine"


def test_a_namespace_fits_into_a_key() -> None:
    assert name_of().isalnum()
