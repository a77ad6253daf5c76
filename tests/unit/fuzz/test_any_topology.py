"""10,000 random topologies: a plan, or findings with path and fix; never a traceback."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from golden.plans import MODELS, fixed_facts
from hypothesis import HealthCheck, given, seed, settings
from merging import merged
from random_topologies import topologies

from pdcache.checks import RULES, Finding, check
from pdcache.checks.rule import Subject
from pdcache.errors import PdcacheError
from pdcache.models.view import model_view
from pdcache.plan import build_plan
from pdcache.plan.shell import shell_script
from pdcache.topology import Topology
from pdcache.topology.facts import Facts, ModelView, Node, meant_nodes

EXAMPLES, PARTS = 10_000, 10
VIEWS = MODELS | {
    "deepseek-ai/DeepSeek-R1": model_view("deepseek-ai/DeepSeek-R1"),
    "./no-weights": ModelView("./no-weights", problem="./no-weights: no weights.", remedy="Give."),
}
TWO_NODES = (Node("10.0.0.1", 1 << 40, gpus=8), Node("10.0.0.2", 1 << 40, gpus=8))


def facts_for(topology: Topology) -> Facts:
    nodes = meant_nodes(topology) or (TWO_NODES if topology.device == "cuda" else (Node(),))
    return fixed_facts(nodes, models=VIEWS, code={"pages.py": "class Pages: ...\n"})


@pytest.mark.parametrize("part", range(PARTS))
def test_a_plan_or_findings_whose_fix_mends_them(part: int) -> None:
    # In parts, because Hypothesis remembers every example of a run.
    @seed(part)
    @settings(
        max_examples=EXAMPLES // PARTS, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(topologies())
    def holds(data: dict[str, Any]) -> None:
        topology = Topology.model_validate(data)
        facts = facts_for(topology)
        for finding in check(topology, facts):
            assert finding.path and finding.message.endswith(".") and finding.fix, finding
            assert_mends(finding, data)
        assert_plans(topology, facts)

    holds()


def assert_plans(topology: Topology, facts: Facts) -> None:
    """There is a plan with a script, or an error with a remedy."""
    try:
        plan = build_plan(topology, facts)
    except PdcacheError as error:
        assert error.message and error.remedy, error
        return
    assert plan.processes and shell_script(plan)
    assert set(plan.provenance) <= {process.name for process in plan.processes}


def assert_mends(finding: Finding, data: dict[str, Any]) -> None:
    """The fix, laid over the topology, takes this finding away."""
    if finding.fix.startswith("# remove "):
        assert finding.path in finding.fix, finding
        return
    mended = Topology.model_validate(merged(data, yaml.safe_load(finding.fix) or {}))
    after = RULES[finding.rule].apply(Subject.of(mended, facts_for(mended)))
    assert finding.path not in {other.path for other in after}, (finding, data)
