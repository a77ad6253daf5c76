"""The rules on ranks, storage backends and decode: what they leave alone, and what they propose."""

from __future__ import annotations

import pytest
import yaml
from broken_sharing import DYNAMIC, KERNEL_HEADS, MLA, TWO_NODES
from broken_topologies import BASE, data_of, findings_of, merged, world
from golden.plans import MODELS, ONE_CPU_NODE, fixed_facts

from pdcache.checks import RULES, Finding, check
from pdcache.store.backend import Traits
from pdcache.store.registry import BACKENDS
from pdcache.topology import parse_topology
from pdcache.topology.facts import Node

PP_OF_BOTH = "prefill: {pp: 2}\ndecode: {pp: 2}\n"
OBJ = "store: {backend: nixl, plugin: OBJ}\n"
BUCKET = "{env: {AWS_DEFAULT_BUCKET: b}}"


def rules_of(text: str, nodes: tuple[Node, ...] = ONE_CPU_NODE) -> set[str]:
    return {finding.rule for finding in findings_of(data_of(text), world(nodes))}


def the_finding(rule: str, text: str, nodes: tuple[Node, ...] = ONE_CPU_NODE) -> Finding:
    (finding,) = [f for f in findings_of(data_of(text), world(nodes)) if f.rule == rule]
    return finding


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        pytest.param("parallel-sizes", "prefill: {tp: 6, attn_dp: 2, ep: 3, nodes: 2}",
                     id="sizes that divide"),
        pytest.param("parallel-sizes",
                     "prefill: {tp: 4, ep: 3, args: {moe_a2a_backend: deepep}}",
                     id="SGLang sets ep to tp itself"),
        pytest.param("tp-heads", "model: {path: tiny-random}\nprefill: {tp: 8}",
                     id="a head is kept by several ranks"),
        pytest.param("tp-heads", "prefill: {tp: 4, attn_dp: 4}", id="attention TP 1"),
        pytest.param("tp-heads", MLA + "prefill: {tp: 7}", id="MLA has no heads to share"),
        pytest.param("tp-heads", "model: {path: ./no-weights}\nprefill: {tp: 7}",
                     id="an unknown model"),
        pytest.param("dp-affinity", "decode: {tp: 3, attn_dp: 3}", id="decode keeps no dialogue"),
        pytest.param("prefill-dp", "decode: {dp: 2}", id="replicas of decode"),
        pytest.param("pp", PP_OF_BOTH, id="equal stages"),
        pytest.param("pp", "mode: prefill_only\nprefill: {pp: 2}", id="decode has one stage"),
        pytest.param("pipeline-keys", PP_OF_BOTH, id="Mooncake's keys hold the stage"),
        pytest.param("pipeline-keys", "mode: prefill_only\ndecode: {pp: 2}\n"
                     "store: {backend: hf3fs, path: /3fs}", id="decode does not use L3"),
        pytest.param("backend-layout", KERNEL_HEADS, id="Mooncake takes heads"),
        pytest.param("backend-layout", "hicache: {layout: layer_first}",
                     id="SGLang changes it for Mooncake"),
        pytest.param("backend-layout", "hicache: {layout: page_first_kv_split}",
                     id="another rule speaks of Ascend's layout"),
        pytest.param("mla-layout", KERNEL_HEADS, id="a model with heads"),
        pytest.param("mla-layout", MLA + "mode: prefill_only\ndecode: {hicache: "
                     "{layout: page_head, io_backend: kernel}}", id="decode has no L2"),
        pytest.param("backend-mla", MLA + "store: {backend: simm, manager: 'a:1'}",
                     id="SiMM serves MLA"),
        pytest.param("layout-copies", "store: {backend: eic, config: {remote_url: x}}",
                     id="nobody chose the layout"),
        pytest.param("layout-copies", "hicache: {layout: layer_first}\n"
                     "store: {backend: file, path: /nfs}", id="a file store copies any layout"),
        pytest.param("layout-copies", "hicache: {layout: layer_first}\n"
                     "store: {backend: hf3fs, path: /3fs, mock_client: true}",
                     id="the mock copies anyway"),
        pytest.param("owned-option", DYNAMIC + ", extra: {folder: /x, allocator: shm}}",
                     id="options of one's own class"),
        pytest.param("unread-option", "store: {extra: {enable_group_semantics: true}}",
                     id="Mooncake reads more options"),
        pytest.param("owned-env", "prefill: {env: {MC_LOG_LEVEL: INFO, PYTHONPATH: /x}}",
                     id="tuning"),
        pytest.param("owned-env", "mode: prefill_only\n"
                     "decode: {env: {MOONCAKE_LOCAL_HOSTNAME: a}}", id="decode has no L3"),
        pytest.param("simm-tag", "store: {namespace: a}", id="Mooncake has namespaces"),
        pytest.param("file-growth",
                     "store: {backend: file, path: /nfs, extra: {min_free_space: 10Gi}}",
                     id="SGLang watches the disk"),
        pytest.param("nixl-path", f"{OBJ}prefill: {BUCKET}\ndecode: {BUCKET}",
                     id="the bucket is in the environment"),
        pytest.param("nixl-path", f"{OBJ}mode: prefill_only\nprefill: {BUCKET}",
                     id="only prefill needs it"),
        pytest.param("hf3fs-client", "store: {backend: hf3fs, path: /3fs}", id="left to pdcache"),
        pytest.param("tenant", "store: {tenant: a, tenant_quota_gb: 1}", id="a quota of our own"),
        pytest.param("no-segment", "store: {holders: 0, worker_segment_gb: 1}",
                     id="workers give memory"),
        pytest.param("no-segment", "store: {holders: 0, master: 'a:50051'}",
                     id="a given master has its own"),
        pytest.param("dynamic-module", DYNAMIC.replace("pages", "deep.er").replace("Pages", "Also")
                     + "}", id="a class by another name"),
        pytest.param("dynamic-module", DYNAMIC.replace("Pages", "Other") + "}",
                     id="a class that is imported"),
        pytest.param("dynamic-module", "store: {backend: dynamic, backend_name: x, "
                     "module_path: installed, class_name: There}", id="no code is sent"),
        pytest.param("no-sharing", "mode: prefill_only\n" + DYNAMIC + ", shares: false}",
                     id="one worker"),
        pytest.param("no-sharing", DYNAMIC + "}", id="it shares"),
        pytest.param("dcp", MLA + "mode: prefill_only\ndecode: {args: {dcp_size: 2}}",
                     id="decode without L3"),
        pytest.param("dcp", MLA + "prefill: {args: {dcp_size: 2}}\ndecode: {args: {dcp-size: 2}}",
                     id="MLA on Mooncake, alike on both roles"),
        pytest.param("dcp", "decode: {args: {dcp_size: many}}", id="no number"),
        pytest.param("unified-memory", "decode: {args: {enable_unified_memory: true}}\n"
                     "hicache: {layout: page_first, io_backend: kernel}\n"
                     "store: {backend: file, path: /nfs}", id="file, and a layout that stays"),
        pytest.param("unified-memory", "decode: {args: {enable_unified_memory: false}}",
                     id="not on"),
        pytest.param("decode-radix", "mode: prefill_only\ndecode: {radix_cache: true}",
                     id="decode does not offload"),
        pytest.param("retraction-backup",
                     "mode: prefill_only\ndecode: {retraction_backup: host_pool}",
                     id="plain decode may"),
        pytest.param("offload-stride", "decode: {offload_stride: 64}", id="a page"),
        pytest.param("offload-stride", "decode: {page_size: 32, offload_stride: 32}",
                     id="a page of decode"),
        pytest.param("buffer-only", "prefill: {hicache: {host_memory_mode: buffer_only}}",
                     id="prefill may"),
        pytest.param("no-effect", "decode: {offload_stride: 64, hicache: {ratio: 0.5}}",
                     id="keys of decode"),
        pytest.param("disable-radix", "decode: {args: {disable_radix_cache: true}}",
                     id="decode has none anyway"),
        pytest.param("pd-excluded", "prefill: {args: {enable_pdmux: false, encoder_only: null}}",
                     id="switches that are off"),
        pytest.param("pd-excluded",
                     "prefill: {args: {mamba_radix_cache_strategy: extra_buffer}}",
                     id="another value"),
        pytest.param("pd-excluded", "decode: {args: {radix_cache_backend: flexkv}}",
                     id="decode has no HiCache"),
        pytest.param("speculative",
                     "mode: prefill_only\nprefill: {args: {speculative_algorithm: NGRAM}}",
                     id="no draft model"),
        pytest.param("mode-flags", "prefill: {args: {speculative_algorithm: null}}",
                     id="a flag that is left out"),
        pytest.param("lora-roles", "prefill: {args: {enable-lora: true, lora_paths: a=/a}}\n"
                     "decode: {args: {lora-paths: a=/a}}", id="paths turn it on"),
        pytest.param("lora-roles", "decode: {args: {enable_lora: false}}", id="off on both"),
    ],
)  # fmt: skip
def test_what_does_no_harm_is_left_alone(rule: str, text: str) -> None:
    assert rule in RULES
    assert rule not in rules_of(text)


def test_a_folder_of_one_node_is_shared_by_the_workers_on_it() -> None:
    text = "store: {backend: file, path: /tmp/kv, max_size_gb: 1}"
    assert "shared-path" not in rules_of(text)
    assert "shared-path" in rules_of(text, TWO_NODES)


def test_decode_on_another_node_needs_no_shared_folder_if_it_does_not_use_l3() -> None:
    text = "mode: prefill_only\nstore: {backend: file, path: /tmp/kv, max_size_gb: 1}"
    assert "shared-path" not in rules_of(text, TWO_NODES)


@pytest.mark.parametrize("path", ["/tmpfs/kv", "/home/tmp", "/runs", "/var/tmpx"])
def test_a_folder_that_only_looks_like_one_of_a_node_is_not_one(path: str) -> None:
    text = f"store: {{backend: file, path: {path}, max_size_gb: 1}}"
    assert "shared-path" not in rules_of(text, TWO_NODES)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("prefill: {dp: 2, workers: 3}", {"prefill": {"workers": 6, "dp": 1}}),
        ("prefill: {dp: 65}", {"prefill": {"dp": 1}}),
    ],
    ids=["as workers", "not as so many"],
)
def test_replicas_of_prefill_become_workers(text: str, fix: object) -> None:
    assert yaml.safe_load(the_finding("prefill-dp", text).fix) == fix


def test_a_size_that_does_not_fit_becomes_the_next_smaller_that_does() -> None:
    for text, value in (
        ("prefill: {tp: 12, attn_dp: 5}", {"attn_dp": 4}),
        ("prefill: {tp: 8, ep: 7}", {"ep": 4}),
        ("prefill: {tp: 2, pp: 3, nodes: 5}", {"nodes": 3}),
    ):
        fix = yaml.safe_load(the_finding("parallel-sizes", text).fix)
        assert fix == {"prefill": value}


def test_both_roles_keep_one_tp_when_the_heads_decide_it() -> None:
    found = findings_of(data_of("prefill: {tp: 2}\ndecode: {tp: 2}"), world())
    (fix,) = {finding.fix for finding in found if finding.rule == "tp-heads"}
    assert yaml.safe_load(fix) == {"prefill": {"tp": 1}, "decode": {"tp": 1}}


OVERRIDES = """
hicache: {layout: layer_first}
prefill: {hicache: {layout: page_head, io_backend: kernel}}
decode: {hicache: {io_backend: kernel}}
"""


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_the_pair_that_is_proposed_for_a_backend_leaves_no_layout_to_mend(backend: str) -> None:
    """Also where a role has an own layout or io backend."""
    own = STORE_OF[backend]
    text = f"{OVERRIDES}{own}"
    before = findings_of(data_of(text), world())
    proposed = [f for f in before if f.rule in ("backend-layout", "layout-copies")]
    for finding in proposed:
        mended = merged(data_of(text), yaml.safe_load(finding.fix))
        assert not {f.rule for f in findings_of(mended, world()) if "layout" in f.rule}
    layouts = BACKENDS[backend].traits.layouts
    asked = {"page_head", "layer_first"} - ({"layer_first"} if backend == "mooncake" else set())
    assert bool(asked - set(layouts)) == any(f.rule == "backend-layout" for f in proposed)


STORE_OF = {
    "mooncake": "store: {backend: mooncake}",
    "hf3fs": "store: {backend: hf3fs, path: /3fs}",
    "file": "store: {backend: file, path: /nfs, max_size_gb: 1}",
    "nixl": "store: {backend: nixl, path: /nfs}",
    "aibrix": "store: {backend: aibrix}",
    "eic": "store: {backend: eic, config: {remote_url: x}}",
    "simm": "store: {backend: simm, manager: 'a:1'}",
    "dynamic": DYNAMIC + "}",
}


def test_traits_name_every_layout_once() -> None:
    for backend in BACKENDS.values():
        traits: Traits = backend.traits
        assert len(set(traits.layouts)) == len(traits.layouts)


def test_a_module_that_was_not_sent_is_replaced_by_the_one_that_has_the_class() -> None:
    text = DYNAMIC.replace("pages", "elsewhere").replace("Pages", "Deep") + "}"
    finding = the_finding("dynamic-module", text)
    assert "deep.er" in finding.message
    assert yaml.safe_load(finding.fix) == {"store": {"module_path": "deep.er"}}


@pytest.mark.parametrize(
    "text", ["def f(:", "\0", "(" * 500, "x = 'é"], ids=["syntax", "nul", "deep", "open"]
)
def test_code_that_is_no_python_is_told_and_raises_nothing(text: str) -> None:
    topology = parse_topology(f"{BASE}{DYNAMIC}}}", source="t.yaml")
    facts = fixed_facts(models=MODELS, code={"pages.py": text})
    (finding,) = [f for f in check(topology, facts) if f.rule == "dynamic-module"]
    assert "pages.py is no Python" in finding.message


def test_a_package_is_a_module_too() -> None:
    topology = parse_topology(f"{BASE}{DYNAMIC}}}", source="t.yaml")
    facts = fixed_facts(models=MODELS, code={"pages/__init__.py": "from pages.own import *\n"})
    assert "dynamic-module" not in {finding.rule for finding in check(topology, facts)}


def test_every_option_that_a_worker_gets_is_one_that_nobody_else_may_give() -> None:
    for own in STORE_OF.values():
        for name in ("prefetch_threshold", "tp_lcm_size", "hicache_storage_pass_prefix_keys"):
            text = (
                own[:-1] + f", extra: {{{name}: 1}}}}"
                if own
                else f"store: {{extra: {{{name}: 1}}}}"
            )
            assert the_finding("owned-option", text).path == f"store.extra.{name}"


def test_a_stride_says_what_is_lost() -> None:
    finding = the_finding("offload-stride", "decode: {offload_stride: 200}")
    assert "SGLang takes 192 tokens" in finding.message
    assert "Up to 191 tokens" in finding.message
