"""What the pages of a role are like: no role is described by what the other was told."""

from __future__ import annotations

import pytest
from golden.plans import MODELS, fixed_facts, shipped

from pdcache.models.view import model_view
from pdcache.plan.formats import kv_format
from pdcache.plan.process import KvFormat
from pdcache.topology import Role
from pdcache.topology.facts import ModelView

TOKEN = MODELS["smollm2-135m"].kv_values_per_token * 4
MLA = ModelView("/models/mla", kv_values_per_token=1000, is_mla=True, weights_digest="mla")


def formats(*overrides: str, mla: bool = False) -> tuple[KvFormat, KvFormat]:
    """The pages of prefill and of decode."""
    topology = shipped("full_offload", *overrides)
    models = MODELS | ({topology.model.path: MLA} if mla else {})
    facts = fixed_facts(models=models)
    return kv_format(topology, facts, Role.PREFILL), kv_format(topology, facts, Role.DECODE)


def test_both_roles_have_the_same_pages_and_an_l2_of_their_own_size() -> None:
    prefill, decode = formats()
    assert (prefill.namespace, prefill.key_suffixes) == (decode.namespace, decode.key_suffixes)
    assert prefill.token_bytes == decode.token_bytes == TOKEN
    assert (prefill.l2_tokens, decode.l2_tokens) == (16384 + 64, 2048 + 64)


def test_plain_decode_has_prefills_layout_and_no_l2() -> None:
    prefill, decode = formats("mode=prefill_only", "hicache.layout=page_head")
    assert (decode.layout, decode.io_backend) == (prefill.layout, prefill.io_backend)
    assert decode.layout == "page_head"
    assert decode.l2_tokens is None


@pytest.mark.parametrize(
    "override",
    ["prefill.pp=2", "prefill.args.kv-cache-dtype=fp8_e5m2", "prefill.args.quantization=fp8"],
)
def test_what_only_prefill_was_told_is_not_taken_for_decode(override: str) -> None:
    """Else decode would write other bytes under the names that prefill reads."""
    prefill, decode = formats(override)
    assert decode == formats()[1]
    assert prefill.namespace != decode.namespace


@pytest.mark.parametrize(
    ("overrides", "token"),
    [
        (["model.dtype=bfloat16"], TOKEN // 2),
        (["prefill.args.kv-cache-dtype=fp8_e5m2"], TOKEN // 4),
        (["prefill.pp=2"], TOKEN // 2),
        (["prefill.tp=3"], TOKEN // 3),
        (["prefill.tp=6", "prefill.attn_dp=2"], TOKEN // 3),
    ],
)
def test_the_bytes_of_a_token_are_those_of_one_rank(overrides: list[str], token: int) -> None:
    assert formats(*overrides)[0].token_bytes == token


def test_without_the_model_the_bytes_are_unknown() -> None:
    topology = shipped("full_offload", "model.path=org/unknown", "hicache.size_gb=1")
    found = kv_format(topology, fixed_facts(), Role.PREFILL)
    assert (found.token_bytes, found.l2_tokens) == (0, None)


def test_attention_tp_and_not_tp_counts_the_ranks_of_a_page() -> None:
    prefill, _ = formats("prefill.tp=6", "prefill.attn_dp=2")
    assert prefill.tp == 3
    assert len(prefill.key_suffixes) == 6


def test_a_model_with_mla_has_one_object_a_page_whatever_the_tp() -> None:
    prefill, decode = formats("prefill.tp=8", mla=True)
    assert prefill.key_suffixes == decode.key_suffixes == ("__k",)
    assert prefill.namespace == decode.namespace


@pytest.mark.parametrize(("mla", "ranks"), [(False, 3), (True, 1)])
def test_a_page_on_3fs_is_asked_of_every_rank_that_has_a_part(mla: bool, ranks: int) -> None:
    prefill, _ = formats("store={backend: hf3fs, path: /3fs}", "prefill.tp=3", mla=mla)
    assert prefill.key_ranks == ranks


def test_whether_names_are_known_follows_the_backend() -> None:
    assert formats()[0].keys_known
    assert not formats("store={backend: simm, manager: 'h:1'}")[0].keys_known


def test_the_built_in_model_has_the_kv_of_its_config() -> None:
    assert model_view("smollm2-135m").rank_kv_values(1) * 4 == TOKEN
