"""The pages of `docs/` say what the code does: generated ones exactly, written ones by name."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from pdcache.checks import RULES
from pdcache.topology.stores import STORES

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
sys.path.append(str(ROOT / "scripts"))

from pages import rules, topology  # noqa: E402

import docs  # noqa: E402


def test_the_generated_pages_are_those_of_this_code() -> None:
    assert docs.main(["--check"]) == 0, "run: python scripts/docs.py"


def test_check_names_a_page_that_differs_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert docs.main([], tmp_path) == 0
    assert docs.main(["--check"], tmp_path) == 0
    (tmp_path / "cli.md").write_text("another text\n")
    assert docs.main(["--check"], tmp_path) == 1
    assert "cli.md differ" in capsys.readouterr().err
    assert (tmp_path / "cli.md").read_text() == "another text\n"


def test_an_unknown_argument_is_wrong_usage() -> None:
    assert docs.main(["--chekc"]) == 2


def test_the_terminal_does_not_change_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    before = docs.cli_page()
    for variable in ("COLUMNS", "TERMINAL_WIDTH"):
        monkeypatch.setenv(variable, "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert docs.cli_page() == before
    assert "\x1b" not in before


def test_every_key_of_the_topology_has_a_description() -> None:
    keys = topology.topology_keys()
    sections = {"decode", *topology.SECTIONS}
    assert [key.path for key in keys if not key.description and key.path not in sections] == []


def test_no_description_is_kept_for_a_key_that_has_one_or_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = set(topology.DESCRIPTIONS)
    monkeypatch.setattr(topology, "DESCRIPTIONS", {})
    assert kept <= {key.path for key in topology.topology_keys() if not key.description}


def test_every_key_of_every_section_is_told_once_where_it_stands() -> None:
    paths = [key.path for key in topology.topology_keys() if not key.path.startswith("store.")]
    assert len(paths) == len(set(paths))
    assert {"ROLE.kv_events.port", "nodes.gpu_gb", "traffic.answer_tokens"} <= set(paths)
    assert not [path for path in paths if path.startswith("ROLE.hicache.")]


@pytest.mark.parametrize("backend", STORES)
def test_every_backend_has_a_table_of_all_its_keys(backend: str) -> None:
    page = topology.topology_page()
    table = page.partition(f"### `backend: {backend}`\n")[2].partition("\n#")[0]
    shared = page.partition("## `store`\n")[2].partition("\n#")[0]
    for name in STORES[backend].model_fields:
        in_shared, in_own = f"| `store.{name}` |" in shared, f"| `store.{name}` |" in table
        assert (in_shared, in_own) == (name in topology.OF_EVERY_STORE, not in_shared), name


def test_the_keys_of_inner_sections_of_a_store_are_told() -> None:
    paths = {key.path for key in topology.store_keys("mooncake")}
    assert {"store.ssd.path", "store.ssd.size_gb", "store.ha.masters", "store.ha.etcd"} <= paths


def test_every_rule_can_have_a_severity() -> None:
    assert all(rules.severities(rule) for rule in RULES.values())


def test_architecture_has_a_sentence_for_every_module() -> None:
    sections = re.split(r"^### `pdcache/`$|^### `(\w+)/`", architecture(), flags=re.M)
    described = {
        (folder or "", name)
        for folder, text in zip(sections[1::2], sections[2::2], strict=True)
        for name in re.findall(r"^\* `([\w.]+)`", text, flags=re.M)
    }
    assert modules() - described == set()
    assert described - modules() - {("sglang_cpu", "__init__")} == set()


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        other = DOCS / file if file else page
        assert other.is_file(), target
        headings = re.findall(r"^#+ (.+)$", other.read_text(), flags=re.M)
        assert not anchor or anchor in {heading_anchor(heading) for heading in headings}, target


def architecture() -> str:
    return (DOCS / "architecture.md").read_text().partition("## Dependency direction")[0]


def modules() -> set[tuple[str, str]]:
    """(folder, module) of every module of pdcache but `__init__` and the lane's own folder."""
    package = ROOT / "pdcache"
    found = set()
    for path in package.rglob("*.py"):
        folder, *rest = path.relative_to(package).with_suffix("").parts
        if path.stem != "__init__" and "pythonpath" not in rest:
            found.add((folder, ".".join(rest)) if rest else ("", folder))
    return found


def heading_anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
