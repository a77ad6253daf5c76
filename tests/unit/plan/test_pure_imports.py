"""Checking and planning need neither Ray nor torch nor SGLang, so they are not even imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("ray", "torch", "sglang", "transformers", "numpy", "pyarrow", "mooncake")


def imported(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has after running `code`."""
    report = f"import sys\nprint()\nprint(*{set(HEAVY)} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "module", ["pdcache", "pdcache.topology", "pdcache.checks", "pdcache.plan", "pdcache.store"]
)
def test_a_module_is_cheap_to_import(module: str) -> None:
    assert imported(f"import {module}") == set()


def test_the_help_of_the_command_line_is_cheap() -> None:
    code = (
        "import sys, contextlib\n"
        "from pdcache.cli.main import main\n"
        "sys.argv = ['pdcache', '--help']\n"
        "with contextlib.suppress(SystemExit): main()"
    )
    assert imported(code) == set()


def test_planning_a_topology_imports_nothing_heavy() -> None:
    code = (
        "from pdcache.topology import parse_topology\n"
        "from pdcache.topology.facts import Facts\n"
        "from pdcache.checks import check\n"
        "from pdcache.plan import build_plan\n"
        "t = parse_topology('name: a\\nmode: full_offload\\nmodel: {path: x/y}', source='t')\n"
        "check(t, Facts()); build_plan(t, Facts())"
    )
    assert imported(code) == set()


def test_a_heavy_import_would_be_seen() -> None:
    assert imported("import numpy") == {"numpy"}
