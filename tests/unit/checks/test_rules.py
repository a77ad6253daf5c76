"""Every rule: the YAML that breaks it, what it says, and that its fix mends it."""

from __future__ import annotations

import pytest
import yaml
from broken_topologies import (
    BASE,
    BROKEN,
    VIEWS,
    Broken,
    data_of,
    facts_of,
    findings_of,
    merged,
    world,
)
from golden.plans import SHIPPED, fixed_facts, shipped

from pdcache.checks import RULES, Finding, check
from pdcache.cli.gather import gather
from pdcache.errors import TopologyError
from pdcache.topology import Mode, parse_topology
from pdcache.topology.facts import ModelView, Node
from pdcache.topology.stores import STORES

CASES = pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.label)


def the_finding(case: Broken) -> Finding:
    data = data_of(case.yaml)
    found = findings_of(data, facts_of(case, data))
    own = [f for f in found if (f.rule, f.path) == (case.rule, case.path)]
    assert own, f"{case.rule} at {case.path} is not among {found}"
    return own[0]


def test_the_topology_that_the_cases_break_is_sound() -> None:
    assert findings_of(data_of(""), world()) == []


@CASES
def test_a_rule_names_the_place_and_says_how_bad_it_is(case: Broken) -> None:
    finding = the_finding(case)
    assert finding.severity == case.severity
    assert finding.message.endswith(".")


@CASES
def test_a_fix_is_yaml_that_mends_or_says_what_to_take_out(case: Broken) -> None:
    finding = the_finding(case)
    if not case.fixed_by_yaml:
        assert finding.fix.startswith("# remove ")
        assert case.path in finding.fix
        return
    mended = merged(data_of(case.yaml), yaml.safe_load(finding.fix))
    found = findings_of(mended, facts_of(case, mended))
    assert (case.rule, case.path) not in [(f.rule, f.path) for f in found]


@CASES
def test_a_skipped_rule_says_nothing(case: Broken) -> None:
    data = data_of(case.yaml)
    found = findings_of(data, facts_of(case, data), case.rule)
    assert case.rule not in {finding.rule for finding in found}


def test_every_rule_has_a_case_that_breaks_it() -> None:
    assert {case.rule for case in BROKEN} == set(RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_every_rule_says_why_it_exists(rule: object) -> None:
    assert getattr(rule, "why", "")
    assert getattr(rule.apply, "__doc__", "")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_is_found_in_a_shipped_topology_on_its_nodes_or_16_gib(name: str) -> None:
    topology = shipped(name)
    nodes = None if topology.nodes else (Node(memory_bytes=16 << 30),)
    assert check(topology, gather(topology, nodes=nodes)) == []


def test_shipped_topologies_of_both_modes_and_every_backend_were_looked_at() -> None:
    found = [shipped(name) for name in SHIPPED]
    assert {topology.mode for topology in found} == set(Mode)
    assert {topology.store.backend for topology in found} == set(STORES)


def test_skipping_a_rule_that_does_not_exist_is_refused_with_the_rules_there_are() -> None:
    with pytest.raises(TopologyError, match="no rule named layuot") as caught:
        findings_of(data_of(""), world(), "layuot")
    assert "layout" in str(caught.value.remedy)


def test_errors_come_before_warnings() -> None:
    text = (
        "gateway: {host: 0.0.0.0}\nhicache: {prefetch_policy: best_effort, ratio: 0.5}\n"
        "decode: {page_size: 16}"
    )
    severities = [finding.severity for finding in findings_of(data_of(text), world())]
    assert severities == ["error", "error", "error", "warning"]


def test_a_finding_is_data() -> None:
    (finding,) = findings_of(data_of("decode: {page_size: 32}"), world())
    assert finding.as_json() == {
        "rule": "page-size",
        "severity": "error",
        "path": "decode.page_size",
        "message": "prefill has pages of 64 tokens and decode of 32; the transfer fails at the "
        "first request and L3 keys never match.",
        "fix": "decode:\n  page_size: 64",
    }


SILENT_CORRUPTION = """
prefill: {hicache: {io_backend: kernel, layout: page_first}}
decode: {hicache: {io_backend: direct, layout: page_first}}
"""


def test_one_layout_word_that_becomes_two_byte_orders_on_one_store_is_an_error() -> None:
    """SGLang resolves decode's page_first to page_first_direct: wrong tokens and no error."""
    findings = findings_of(data_of(SILENT_CORRUPTION), world())
    layout = {f.path: f for f in findings if f.rule == "layout"}
    assert set(layout) == {"decode.hicache.layout", "decode.hicache.io_backend"}
    assert {finding.severity for finding in layout.values()} == {"error"}
    message = layout["decode.hicache.layout"].message
    assert "prefill uses layout page_first and decode page_first_direct" in message
    assert "decode asked for page_first, which SGLang resolves to page_first_direct" in message
    for finding in layout.values():
        mended = merged(data_of(SILENT_CORRUPTION), yaml.safe_load(finding.fix))
        assert findings_of(mended, world()) == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("mode: prefill_only\nprefill: {hicache: {layout: page_head, io_backend: "
                     "kernel}}", id="decode neither writes nor reads L3"),
        pytest.param("mode: prefill_only\nprefill: {tp: 3}", id="only prefill uses L3"),
        pytest.param("mode: prefill_only\nhicache: {prefetch_threshold: 256}",
                     id="no short answers in L3"),
        pytest.param("mode: prefill_only\nprefill: {args: {speculative-algorithm: EAGLE}}",
                     id="prefill hashes for itself"),
        pytest.param("store: {master: '10.0.0.9:50051', segment_gb: 0.001}",
                     id="the segments of a given store are not ours"),
        pytest.param("hicache: {ratio: 0.5, size_gb: 1}", id="a size takes the ratio's place"),
        pytest.param("gateway: {host: localhost}", id="loopback by name"),
        pytest.param("prefill: {args: {enable-mixed-chunk: true}}", id="a flag without own key"),
        pytest.param("model: {path: smollm2-135m, dtype: bfloat16}", id="one dtype for both"),
        pytest.param("page_size: 32\nprefill: {page_size: 64}\ndecode: {page_size: 64}",
                     id="equal page sizes"),
        pytest.param("prefill: {tp: 3}\nhicache: {layout: page_head, io_backend: kernel}\n"
                     "store: {tp_lcm_size: 3}", id="heads are objects of their own"),
        pytest.param("prefill: {tp: 2, attn_dp: 2}", id="equal attention TP"),
        pytest.param("store: {worker_segment_gb: 0.03}", id="a worker segment of one rank"),
        pytest.param("store: {port: 20500, metrics_port: 20502, ha: {masters: 2}}",
                     id="ports of two masters"),
    ],
)  # fmt: skip
def test_what_does_no_harm_is_not_an_error(text: str) -> None:
    findings = findings_of(data_of(text), world())
    assert [finding for finding in findings if finding.severity == "error"] == []


def test_unequal_tp_is_fine_when_kv_is_the_same_on_every_rank() -> None:
    mla = ModelView("/models/mla", is_mla=True, weights_digest="mla")
    facts = fixed_facts(models=VIEWS | {"mla": mla})
    text = "model: {path: mla}\nprefill: {tp: 2}"
    assert "tp" not in {finding.rule for finding in findings_of(data_of(text), facts)}


def test_a_model_that_cannot_be_read_is_told_once_with_its_remedy() -> None:
    for text in ("model: {path: ./no-weights}", "prefill: {model_path: ./no-weights}"):
        found = findings_of(data_of(text), world())
        (finding,) = [finding for finding in found if finding.severity == "error"]
        assert "lacks weights" in finding.message
        assert "Give a complete folder." in finding.message + finding.fix


def test_what_the_fix_of_too_much_memory_gives_is_never_more_than_before() -> None:
    text = (
        "memory: {host_gb: 5}\nstore: {segment_gb: 0.25}\n"
        "prefill: {max_total_tokens: 512}\ndecode: {max_total_tokens: 600}"
    )
    (finding,) = [f for f in findings_of(data_of(text), world()) if f.rule == "host-memory"]
    fix = yaml.safe_load(finding.fix)
    assert fix["store"]["segment_gb"] <= 0.25
    for role, tokens in (("prefill", 512), ("decode", 600)):
        assert fix.get(role, {}).get("max_total_tokens", tokens) <= tokens


def test_a_rule_reads_yaml_as_it_stands_in_a_file() -> None:
    text = BASE + "page_size: 96\nprefill: {chunked_prefill_size: 2048}"
    findings = check(parse_topology(text, source="t.yaml"), world())
    assert [(f.rule, f.fix) for f in findings] == [
        ("chunk-size", "prefill:\n  chunked_prefill_size: 2016")
    ]
